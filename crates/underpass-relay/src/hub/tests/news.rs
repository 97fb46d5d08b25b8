//! What the hub has written down.

use super::*;

/// A driver with a joined route, and its ends.
fn joined() -> (Driver, RouteEnd, RouteEnd) {
    let mut driver = Driver::with_publisher();
    driver.open(1, 2);
    driver.answer_all(Ok(grant(DB)));
    let (near, far) = driver.joined[0];
    (driver, near, far)
}

#[test]
fn a_refusal_is_written_down_and_has_no_end() {
    let mut driver = Driver::with_publisher();
    driver.open(1, 2);
    driver.answer_all(Err(Code::Denied));
    assert_eq!(driver.news, [RouteNews::Refused(Refusal::of(Code::Denied))]);
    driver.down(1);
    assert_eq!(driver.news.len(), 1);
}

#[test]
fn each_end_of_a_route_is_written_down_once_with_its_reason() {
    type End = fn(&mut Driver, RouteEnd, RouteEnd);
    let ends: [(End, Code, EndedBy); 5] = [
        (
            |driver, near, _| driver.gone(near, Code::Cancelled),
            Code::Cancelled,
            EndedBy::User,
        ),
        (
            |driver, _, far| driver.gone(far, Code::NoError),
            Code::NoError,
            EndedBy::Publisher,
        ),
        (
            |driver, _, _| {
                driver.hub.withdraw(DB);
                driver.drain();
            },
            Code::NoService,
            EndedBy::Relay,
        ),
        (
            |driver, _, far| driver.down(far.link.0),
            Code::Aborted,
            EndedBy::Path,
        ),
        (
            |driver, near, _| driver.detached(1, &[near.link.0]),
            Code::Aborted,
            EndedBy::Path,
        ),
    ];
    for (end, code, by) in ends {
        let (mut driver, near, far) = joined();
        end(&mut driver, near, far);
        let code = code.number();
        let ended = Ended {
            near,
            far,
            code,
            by,
        };
        let opened = RouteNews::Opened(Opened::New);
        assert_eq!(driver.news, [opened, RouteNews::Ended(ended)], "{by:?}");
        assert!(driver.told.is_empty(), "{by:?}");
    }
}

#[test]
fn a_resume_is_told_from_a_failover() {
    let by_name = || Path::Named {
        service: "db".into(),
        keep: WAIT,
    };
    let by_ticket = || Path::Ticketed(Ticket::new([7; 32]));
    let mut driver = Driver::with_publisher();
    let open = |driver: &mut Driver, route, path: Path, resumes| {
        let ticketed = matches!(path, Path::Ticketed(_));
        driver.open_with(1, route, path, resumes);
        if ticketed {
            driver.authority_says(Ok(given(false)));
            driver.answer_all(Ok(grant(DB)));
        } else {
            driver.answer_all(Ok(grant(DB)));
            driver.authority_says(Ok(given(true)));
        }
        driver.joined.last().copied().unwrap().0
    };
    let mut ends = Vec::new();
    for (route, path, resumes) in [
        (2, by_ticket(), true),
        (4, by_name(), true),
        (6, by_name(), false),
    ] {
        ends.push(open(&mut driver, route, path, resumes));
    }
    for end in ends {
        driver.gone(end, Code::NoError);
    }
    open(&mut driver, 8, by_ticket(), true);
    let opened: Vec<Opened> = driver
        .news
        .iter()
        .filter_map(|news| match news {
            RouteNews::Opened(opened) => Some(*opened),
            _ => None,
        })
        .collect();
    let again = |beside| Opened::Again { beside };
    assert_eq!(
        opened,
        [
            Opened::FromElsewhere,
            again(true),
            Opened::New,
            again(false)
        ]
    );
}

#[test]
fn an_attachment_returns_when_it_had_no_link_left() {
    let mut driver = Driver::new(Limits::default());
    driver.attach(1);
    driver.up(1, 1);
    driver.up(1, 2);
    driver.down(1);
    assert!(driver.returned.is_empty(), "it had a link all the time");
    driver.down(2);
    driver.up(1, 3);
    assert_eq!(driver.returned, [AttachmentId(1)]);
}

//! Routes that are opened by tickets, and the tickets that they give.

use super::*;

fn named() -> Path {
    Path::Named {
        service: "db".into(),
        keep: WAIT,
    }
}

fn by_ticket() -> Path {
    Path::Ticketed(Ticket::new([5; 32]))
}

#[test]
fn a_session_gets_its_ticket_before_its_route() {
    let mut driver = Driver::with_publisher();
    let near = driver.open_for_session(1, 2, named());
    assert!(driver.questions.is_empty(), "not before the verdict");
    driver.answer_all(Ok(grant(DB)));
    assert!(driver.joined.is_empty(), "not before the ticket");
    let [question] = &driver.questions[..] else {
        panic!("one question");
    };
    assert_eq!(question.claim.holder, [9; 32]);
    assert_eq!(question.claim.session, SessionId([3; 16]));
    let keep = WAIT;
    assert_eq!(question.wanted, Wanted::Issue { service: DB, keep });
    driver.authority_says(Ok(given(true)));
    assert_eq!(driver.given, [(near, given(true))]);
    let far = driver.joined[0].1;
    assert_eq!(driver.hub.tickets(), [Handle([8; 16])]);
    driver.hub.answered(far);
    driver.gone(near, Code::NoError);
    assert!(driver.discarded.is_empty(), "the session may come back");
    assert!(driver.hub.tickets().is_empty());
}

#[test]
fn a_ticket_that_nobody_can_use_is_discarded() {
    for gone_first in [false, true] {
        let mut driver = Driver::with_publisher();
        let near = driver.open_for_session(1, 2, named());
        driver.answer_all(Ok(grant(DB)));
        if gone_first {
            driver.gone(near, Code::Cancelled);
        }
        driver.authority_says(Ok(given(true)));
        if !gone_first {
            // The publisher has not said a word.
            driver.gone(near, Code::Cancelled);
        }
        assert_eq!(driver.discarded, [Handle([8; 16])]);
        assert_eq!(driver.hub.load().routes, 0);
    }
}

#[test]
fn a_good_ticket_leads_to_its_service_if_the_user_still_may() {
    for verdict in [Ok(grant(DB)), Err(Code::Denied)] {
        let mut driver = Driver::with_publisher();
        let near = driver.open_for_session(1, 2, by_ticket());
        assert!(driver.checks.is_empty(), "nobody knows yet where to");
        driver.authority_says(Ok(given(false)));
        assert!(driver.joined.is_empty(), "not before the verdict");
        assert_eq!(driver.checks[0].service, Asked::Id(DB));
        driver.answer_all(verdict.clone());
        match verdict {
            Ok(_) => assert_eq!(driver.joined[0].0, near),
            Err(code) => assert_eq!(driver.gone, [(near, code)]),
        }
        assert!(driver.questions.is_empty(), "it has its next ticket");
        assert!(driver.discarded.is_empty(), "the session lives on");
    }
}

#[test]
fn nothing_is_opened_without_the_authority() {
    for code in [Code::TicketUnknown, Code::AuthorityUnreachable] {
        for path in [named(), by_ticket()] {
            let mut driver = Driver::with_publisher();
            let near = driver.open_for_session(1, 2, path);
            driver.answer_all(Ok(grant(DB)));
            driver.authority_says(Err(code));
            assert_eq!(driver.gone, [(near, code)]);
            assert!(driver.joined.is_empty() && driver.given.is_empty());
        }
    }
}

#[test]
fn living_routes_do_not_need_the_authority() {
    let mut driver = Driver::with_publisher();
    driver.open_for_session(1, 2, named());
    driver.answer_all(Ok(grant(DB)));
    driver.authority_says(Ok(given(true)));
    let far = driver.joined[0].1;
    driver.hub.answered(far);
    driver.open_for_session(1, 4, by_ticket());
    driver.authority_says(Err(Code::AuthorityUnreachable));
    assert_eq!(driver.gone.len(), 1);
    assert_eq!(driver.hub.load().routes, 1);
}

#[test]
fn a_ticket_needs_a_session_that_can_be_read() {
    let mut driver = Driver::with_publisher();
    let near = RouteEnd {
        link: LinkId(1),
        route: 2,
    };
    driver.ends.insert(near, None);
    let opening = Opening {
        path: by_ticket(),
        ..opening(2, "")
    };
    driver.hub.open(near.link, opening);
    driver.drain();
    assert_eq!(driver.gone, [(near, Code::TicketUnknown)]);
    assert!(driver.questions.is_empty());
}

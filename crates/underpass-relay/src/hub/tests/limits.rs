//! What each user may begin, and sessions that were ended for good.

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

impl Driver {
    /// User 1 opens a route for a session.
    fn wants(&mut self, route: u32, session: u8, path: Path, resumes: bool) -> RouteEnd {
        let end = RouteEnd {
            link: LinkId(1),
            route,
        };
        self.ends.insert(end, None);
        let opening = Opening {
            path,
            session: Some(SessionId([session; 16])),
            resumes,
            ..opening(route, "")
        };
        self.hub.open(end.link, opening);
        self.drain();
        end
    }

    /// Has everything that was asked be granted, until nothing is asked any more.
    fn let_in(&mut self) {
        while !self.checks.is_empty() || !self.questions.is_empty() {
            self.answer_all(Ok(grant(DB)));
            self.authority_says(Ok(given(true)));
        }
    }

    fn refused(&mut self) -> Vec<Code> {
        std::mem::take(&mut self.gone)
            .into_iter()
            .map(|(_, code)| code)
            .collect()
    }
}

const SESSIONS: LimitKind = LimitKind::Sessions;

#[test]
fn sessions_are_counted_by_who_begins_them() {
    let mut driver = Driver::with_publisher();
    driver.hub.limits.sessions_per_user = 2;
    driver.wants(2, 1, named(), false);
    // Undecided ones count: otherwise all could be asked for at once.
    let second = driver.wants(4, 2, named(), false);
    driver.wants(6, 3, named(), false);
    assert_eq!(driver.refused(), [Code::SessionLimit]);
    driver.let_in();
    assert_eq!(driver.hub.taken_up(UserId(1)), (1, 2));
    assert_eq!(
        driver.hub.taken_up(UserId(2)),
        (1, 0),
        "not the publisher's"
    );
    // Further routes of a session are not further sessions.
    driver.wants(8, 1, named(), true);
    driver.let_in();
    assert_eq!(driver.refused(), []);
    assert_eq!(driver.hub.living().len(), 2);
    assert_eq!(
        driver.hub.living()[0].paths.len() + driver.hub.living()[1].paths.len(),
        3
    );
    // What a ticket shows to be known elsewhere is let in; whoever only says so is not.
    driver.wants(10, 4, named(), true);
    assert_eq!(driver.refused(), [Code::SessionLimit]);
    driver.wants(12, 4, by_ticket(), true);
    driver.let_in();
    assert_eq!(driver.refused(), []);
    driver.gone(second, Code::NoError);
    driver.refused();
    assert_eq!(driver.hub.taken_up(UserId(1)), (1, 2));
    // Exceptions, in both directions.
    let mut set = |most| {
        let one = HashMap::from([((UserId(1), SESSIONS), most)]);
        driver.hub.set_exceptions(one);
        driver.wants(14, 5, named(), false);
        driver.refused()
    };
    assert_eq!(set(Some(0)), [Code::SessionLimit]);
    assert_eq!(set(None), []);
}

#[test]
fn what_was_ended_for_good_stays_ended() {
    let mut driver = Driver::with_publisher();
    for (route, session) in [(2, 1), (4, 1), (6, 2)] {
        driver.wants(route, session, named(), route == 4);
    }
    driver.let_in();
    let (_, far) = driver.joined[0];
    driver.hub.answered(far);
    let why = Refusal::new(Code::Ended, "enough");
    driver.hub.end_session(SessionId([1; 16]), why.clone());
    driver.drain();
    // Both ends of both routes; the other session stays.
    assert_eq!(driver.refused(), [Code::Ended; 4]);
    assert!(driver.discarded.len() >= 2, "no ticket is left");
    assert_eq!(driver.hub.living().len(), 1);
    for (path, resumes) in [(named(), true), (by_ticket(), true), (named(), false)] {
        driver.wants(8, 1, path, resumes);
        assert_eq!(driver.refused(), [Code::Ended]);
    }
    assert!(driver.checks.is_empty() && driver.questions.is_empty());
    // What other relays have ended is known with the next look at the store; and forgotten with it.
    let all = HashMap::from([(SessionId([2; 16]), why)]);
    driver.hub.set_ended(all);
    driver.drain();
    assert_eq!(driver.refused(), [Code::Ended; 2]);
    driver.hub.set_ended(HashMap::new());
    driver.wants(10, 1, named(), false);
    driver.let_in();
    assert_eq!(driver.refused(), []);
}

#[test]
fn who_has_used_a_month_up_has_nothing_until_it_is_over() {
    let mut driver = Driver::with_publisher();
    driver.wants(2, 1, named(), false);
    driver.let_in();
    let why = Refusal::of_limit(LimitKind::BytesPerMonth, 1000);
    let exhausted = HashMap::from([(UserId(1), why)]);
    driver.hub.set_exhausted(exhausted);
    driver.drain();
    assert_eq!(driver.refused(), [Code::MonthLimit; 2]);
    driver.wants(4, 1, by_ticket(), true);
    driver.wants(6, 2, named(), false);
    assert_eq!(driver.refused(), [Code::MonthLimit; 2]);
    // The publisher's own sessions are on another account.
    let end = RouteEnd {
        link: LinkId(2),
        route: 2,
    };
    driver.ends.insert(end, None);
    let own = Opening {
        session: Some(SessionId([7; 16])),
        ..opening(2, "db")
    };
    driver.hub.open(end.link, own);
    driver.drain();
    driver.let_in();
    assert_eq!(driver.refused(), []);
    driver.hub.set_exhausted(HashMap::new());
    driver.wants(8, 3, named(), false);
    driver.let_in();
    assert_eq!(driver.refused(), []);
}

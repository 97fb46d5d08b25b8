//! The hub against stories, and against a plain model of its driver.

mod grades;
mod limits;
mod meetings;
mod news;
mod storm;
mod tickets;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use underpass_proto::Grade;
use underpass_proto::limit::LimitKind;
use underpass_proto::packet::SessionId;
use underpass_proto::route::Gone;
use underpass_proto::ticket::{Handle, Ticket};
use underpass_proto::{Code, Time};
use underpass_store::{MachineId, ServiceId, UserId};

use super::*;
use crate::Refusal;

const DB: ServiceId = ServiceId(1);
const WAIT: Duration = Duration::from_secs(20);

/// What a driver keeps, and checks of the promises made to it.
struct Driver {
    hub: Hub,
    now: Time,
    links: HashSet<LinkId>,
    /// Ends that the driver keeps queues for, with the other end once joined.
    ends: HashMap<RouteEnd, Option<RouteEnd>>,
    checks: Vec<Check>,
    /// What the agents were told, in order.
    gone: Vec<(RouteEnd, Code)>,
    joined: Vec<(RouteEnd, RouteEnd)>,
    ended: Vec<(AttachmentId, Code)>,
    cut: Vec<LinkId>,
    notified: Vec<AttachmentId>,
    told_rights: Vec<AttachmentId>,
    told_meetings: Vec<AttachmentId>,
    questions: Vec<Question>,
    given: Vec<(RouteEnd, Given)>,
    absent: Vec<RouteEnd>,
    discarded: Vec<Handle>,
    /// What was to be written down, without who and where.
    news: Vec<RouteNews>,
    /// Near ends of routes of which it was written that they are there.
    told: HashSet<RouteEnd>,
    returned: Vec<AttachmentId>,
}

/// A wish of a machine whose first packet is of no session.
fn opening(route: u32, service: &str) -> Opening {
    let service = service.to_owned();
    Opening {
        route,
        path: Path::Named {
            service,
            keep: WAIT,
        },
        session: None,
        resumes: false,
        grade: Grade::Blind,
        key: [9; 32],
    }
}

fn given(issued: bool) -> Given {
    Given {
        service: DB,
        ticket: Ticket::new([7; 32]),
        handle: Handle([8; 16]),
        lifetime: WAIT,
        issued,
    }
}

fn member(user: i64) -> Member {
    Member {
        user: UserId(user),
        user_name: format!("user-{user}"),
        machine: MachineId(user),
        machine_name: "machine".into(),
    }
}

fn grant(service: ServiceId) -> Grant {
    Grant {
        service,
        name: format!("service-{}", service.0),
        owner: "owner".into(),
    }
}

impl Driver {
    fn new(limits: Limits) -> Self {
        Self {
            hub: Hub::new(limits),
            now: Time::ZERO,
            links: HashSet::new(),
            ends: HashMap::new(),
            checks: Vec::new(),
            gone: Vec::new(),
            joined: Vec::new(),
            ended: Vec::new(),
            cut: Vec::new(),
            notified: Vec::new(),
            told_rights: Vec::new(),
            told_meetings: Vec::new(),
            questions: Vec::new(),
            given: Vec::new(),
            absent: Vec::new(),
            discarded: Vec::new(),
            news: Vec::new(),
            told: HashSet::new(),
            returned: Vec::new(),
        }
    }

    /// A driver with an attached user and a publisher of [`DB`], each with one link.
    fn with_publisher() -> Self {
        let mut driver = Self::new(Limits::default());
        driver.attach(1);
        driver.up(1, 1);
        driver.attach(2);
        driver.up(2, 2);
        driver.publish(2, DB).unwrap();
        driver
    }

    fn attach(&mut self, id: u64) {
        let member = Some(member(id as i64));
        self.hub
            .attach(AttachmentId(id), None, member, self.now)
            .unwrap();
    }

    fn up(&mut self, attachment: u64, link: u64) {
        self.links.insert(LinkId(link));
        self.hub
            .link_up(AttachmentId(attachment), LinkId(link), self.now);
        self.drain();
    }

    fn down(&mut self, link: u64) {
        let link = LinkId(link);
        self.links.remove(&link);
        self.ends.retain(|end, _| end.link != link);
        self.hub.link_down(link);
        self.drain();
    }

    fn detached(&mut self, attachment: u64, links: &[u64]) {
        for link in links {
            self.links.remove(&LinkId(*link));
            self.ends.retain(|end, _| end.link != LinkId(*link));
        }
        self.hub.detached(AttachmentId(attachment));
        self.drain();
    }

    fn publish(&mut self, attachment: u64, service: ServiceId) -> Result<(), Refusal> {
        let publication = Publication {
            name: grant(service).name,
            description: String::new(),
        };
        let done = self
            .hub
            .publish(AttachmentId(attachment), service, publication, self.now);
        self.drain();
        done
    }

    fn open(&mut self, link: u64, route: u32) -> RouteEnd {
        let end = RouteEnd {
            link: LinkId(link),
            route,
        };
        self.ends.entry(end).or_insert(None);
        self.hub.open(end.link, opening(route, "db"));
        self.drain();
        end
    }

    /// Opens a route with a first packet that begins a session.
    fn open_for_session(&mut self, link: u64, route: u32, path: Path) -> RouteEnd {
        self.open_with(link, route, path, false)
    }

    /// Opens a route with a first packet of a session, which begins it or resumes it.
    fn open_with(&mut self, link: u64, route: u32, path: Path, resumes: bool) -> RouteEnd {
        let end = RouteEnd {
            link: LinkId(link),
            route,
        };
        self.ends.insert(end, None);
        let opening = Opening {
            path,
            session: Some(SessionId([3; 16])),
            resumes,
            ..opening(route, "")
        };
        self.hub.open(end.link, opening);
        self.drain();
        end
    }

    fn authority_says(&mut self, answer: Result<Given, Code>) {
        for question in std::mem::take(&mut self.questions) {
            let answer = answer.clone().map_err(Refusal::of);
            self.hub.authorized(question.check, answer, self.now);
            self.drain();
        }
    }

    fn answer_all(&mut self, verdict: Result<Grant, Code>) {
        for check in std::mem::take(&mut self.checks) {
            let verdict = verdict.clone().map_err(Refusal::of);
            self.hub.verdict(check.check, verdict, self.now);
            self.drain();
        }
    }

    fn gone(&mut self, end: RouteEnd, code: Code) {
        let gone = Gone {
            route: end.route,
            code: code.number(),
            text: String::new(),
        };
        self.hub.gone(end.link, gone);
        self.drain();
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.hub.handle_timeout(self.now);
        self.drain();
        assert!(self.hub.poll_timeout().is_none_or(|(at, _)| at > self.now));
    }

    fn drain(&mut self) {
        while let Some(command) = self.hub.poll_command() {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Check(check) => self.checks.push(check),
            Command::Authorize(question) => self.questions.push(question),
            Command::Give { end, given } => {
                assert!(self.ends.contains_key(&end), "{end} is known");
                self.given.push((end, given));
            }
            Command::Discard { handle } => self.discarded.push(handle),
            Command::Join {
                near,
                far,
                incoming,
                account: _,
            } => {
                assert_eq!(incoming.route, far.route);
                assert_eq!(self.ends.insert(near, Some(far)), Some(None), "joined once");
                assert!(self.ends.insert(far, Some(near)).is_none(), "{far} is new");
                assert!(self.links.contains(&near.link) && self.links.contains(&far.link));
                assert!(self.told.insert(near), "written down once");
                let opened = self.news.last();
                assert!(matches!(opened, Some(RouteNews::Opened(_))), "{opened:?}");
                self.joined.push((near, far));
            }
            Command::Absent { end } => {
                assert_eq!(self.ends.get(&end), Some(&None), "{end} is not joined");
                self.absent.push(end);
            }
            Command::Forget { end } => {
                assert!(self.ends.remove(&end).is_some(), "{end} is known");
            }
            Command::Finish { end, gone } => {
                assert!(self.links.contains(&end.link), "{end} has its link");
                assert!(self.ends.remove(&end).is_some(), "{end} is known");
                assert_eq!(gone.route, end.route);
                self.gone.push((end, Code::from_number(gone.code).unwrap()));
            }
            Command::CloseLink { link, .. } => {
                assert!(self.links.contains(&link));
                self.cut.push(link);
            }
            Command::End { attachment, why } => self.ended.push((attachment, why.code)),
            Command::Notify { attachment, .. } => self.notified.push(attachment),
            Command::Record(event) => {
                if let RouteNews::Ended(ended) = &event.news {
                    assert!(self.told.remove(&ended.near), "an end of what was there");
                }
                self.news.push(event.news);
            }
            Command::Returned { attachment, .. } => self.returned.push(attachment),
            Command::TellRights { attachment } => self.told_rights.push(attachment),
            Command::TellMeetings { attachment } => self.told_meetings.push(attachment),
        }
    }
}

#[test]
fn an_allowed_user_is_joined_with_the_publisher() {
    let mut driver = Driver::with_publisher();
    let near = driver.open(1, 2);
    let [check] = &driver.checks[..] else {
        panic!("one question");
    };
    assert_eq!(check.user, UserId(1));
    assert_eq!(check.service, Asked::Name("db".into()));
    assert!(driver.joined.is_empty(), "not before the verdict");
    driver.answer_all(Ok(grant(DB)));
    assert_eq!(driver.joined[0].0, near);
    assert_eq!(driver.joined[0].1.link, LinkId(2));
}

#[test]
fn the_publisher_is_told_who_comes_by_the_key_of_the_hop() {
    let mut driver = Driver::with_publisher();
    driver.hub.open(LinkId(1), opening(2, "db.owner"));
    let Some(Command::Check(check)) = driver.hub.poll_command() else {
        panic!("a question");
    };
    driver.hub.verdict(check.check, Ok(grant(DB)), driver.now);
    let join = std::iter::from_fn(|| driver.hub.poll_command())
        .find_map(|command| match command {
            Command::Join { incoming, .. } => Some(incoming),
            _ => None,
        })
        .unwrap();
    assert_eq!((join.user.as_str(), join.machine), ("user-1", [9; 32]));
    assert_eq!(join.service, "service-1", "by the publisher's name for it");
}

#[test]
fn a_refusal_of_the_store_is_passed_on() {
    for code in [Code::Denied, Code::NoService, Code::StoreUnavailable] {
        let mut driver = Driver::with_publisher();
        let near = driver.open(1, 2);
        driver.answer_all(Err(code));
        assert_eq!(driver.gone, [(near, code)]);
        assert_eq!(driver.hub.load().routes, 0);
    }
}

#[test]
fn who_is_not_enrolled_opens_nothing() {
    let mut driver = Driver::new(Limits::default());
    driver
        .hub
        .attach(AttachmentId(1), None, None, driver.now)
        .unwrap();
    driver.up(1, 1);
    let near = driver.open(1, 2);
    assert!(driver.checks.is_empty());
    assert_eq!(driver.gone, [(near, Code::NotEnrolled)]);
}

#[test]
fn a_route_waits_for_its_publisher_and_no_longer_than_allowed() {
    let mut driver = Driver::with_publisher();
    driver.down(2);
    let first = driver.open(1, 2);
    driver.answer_all(Ok(grant(DB)));
    assert_eq!(driver.absent, [first], "it is told so");
    driver.wait(WAIT / 2);
    assert!(driver.gone.is_empty() && driver.joined.is_empty());
    driver.up(2, 3);
    assert_eq!(driver.joined[0].0, first);

    driver.down(3);
    driver.gone.clear();
    let second = driver.open(1, 4);
    driver.answer_all(Ok(grant(DB)));
    driver.wait(WAIT);
    assert_eq!(driver.gone, [(second, Code::ServiceAway)]);
    assert_eq!(driver.hub.load().waiting, 0);
    driver.up(2, 4);
    assert_eq!(driver.joined.len(), 1, "what was given up stays so");
}

#[test]
fn a_publisher_that_attaches_anew_serves_what_waits() {
    let mut driver = Driver::with_publisher();
    driver.detached(2, &[2]);
    let near = driver.open(1, 2);
    driver.answer_all(Ok(grant(DB)));
    driver.attach(3);
    driver.up(3, 3);
    assert!(driver.joined.is_empty());
    driver.publish(3, DB).unwrap();
    assert_eq!(driver.joined[0].0, near);
}

#[test]
fn when_one_link_goes_the_other_side_is_told() {
    for (cut, left) in [(1, 2), (2, 1)] {
        let mut driver = Driver::with_publisher();
        driver.open(1, 2);
        driver.answer_all(Ok(grant(DB)));
        driver.down(cut);
        let [(end, code)] = driver.gone[..] else {
            panic!("one side is told");
        };
        assert_eq!(end.link, LinkId(left));
        assert!(code.retry_helps());
        assert_eq!(driver.hub.load().routes, 0);
    }
}

#[test]
fn an_agent_can_connect_to_itself() {
    let mut driver = Driver::with_publisher();
    driver.open(2, 2);
    driver.answer_all(Ok(grant(DB)));
    let (near, far) = driver.joined[0];
    assert_eq!((near.link, far.link), (LinkId(2), LinkId(2)));
    assert_ne!(near.route, far.route);
    driver.down(2);
    assert_eq!(driver.hub.load().routes, 0);
}

#[test]
fn either_side_can_end_a_route_and_the_other_hears_why() {
    for near_ends in [true, false] {
        let mut driver = Driver::with_publisher();
        driver.open(1, 2);
        driver.answer_all(Ok(grant(DB)));
        let (near, far) = driver.joined[0];
        let (end, other) = if near_ends { (near, far) } else { (far, near) };
        driver.gone(end, Code::Cancelled);
        assert_eq!(driver.gone, [(other, Code::Cancelled)]);
        assert!(driver.ends.is_empty());
    }
}

#[test]
fn who_gives_up_before_the_verdict_is_not_joined() {
    let mut driver = Driver::with_publisher();
    let near = driver.open(1, 2);
    driver.gone(near, Code::Cancelled);
    driver.answer_all(Ok(grant(DB)));
    assert!(driver.joined.is_empty() && driver.ends.is_empty());
}

#[test]
fn a_number_in_use_or_of_the_relays_choice_closes_the_link() {
    let mut driver = Driver::with_publisher();
    driver.open(1, 2);
    driver.open(1, 2);
    assert_eq!(driver.cut, [LinkId(1)]);
    driver.ends.clear();
    driver.open(1, 3);
    assert_eq!(driver.cut, [LinkId(1), LinkId(1)]);
}

#[test]
fn a_publisher_that_never_answers_is_given_up() {
    let mut driver = Driver::with_publisher();
    driver.open(1, 2);
    driver.open(1, 4);
    driver.answer_all(Ok(grant(DB)));
    driver.hub.answered(driver.joined[0].1);
    driver.wait(Limits::default().answer_within);
    let (silent_near, silent_far) = driver.joined[1];
    assert_eq!(
        driver.gone,
        [(silent_near, Code::TimedOut), (silent_far, Code::Aborted)]
    );
    assert_eq!(driver.hub.load().routes, 1);
}

#[test]
fn what_the_opener_sends_is_no_answer_of_the_publisher() {
    let mut driver = Driver::with_publisher();
    driver.down(2);
    let near = driver.open(1, 2);
    driver.answer_all(Ok(grant(DB)));
    driver.hub.answered(near);
    driver.wait(WAIT);
    assert_eq!(driver.gone, [(near, Code::ServiceAway)]);
}

#[test]
fn access_that_is_taken_back_ends_routes_that_stand() {
    let mut driver = Driver::with_publisher();
    driver.open(1, 2);
    driver.open(1, 4);
    driver.answer_all(Ok(grant(DB)));
    driver.hub.recheck(DB);
    driver.drain();
    let publisher = driver.told_rights.pop();
    assert_eq!(publisher, Some(AttachmentId(2)), "who publishes it is told");
    assert!(driver.told_rights.is_empty(), "and nobody else");
    assert_eq!(driver.checks[0].service, Asked::Id(DB));
    let kept = driver.checks.pop().unwrap();
    driver.answer_all(Err(Code::Denied));
    driver.hub.verdict(kept.check, Ok(grant(DB)), driver.now);
    let (near, far) = driver.joined[0];
    assert_eq!(driver.gone, [(near, Code::Denied), (far, Code::Aborted)]);
    assert_eq!(driver.hub.load().routes, 1);
}

#[test]
fn a_withdrawn_service_has_no_routes_and_no_publisher() {
    let mut driver = Driver::with_publisher();
    driver.open(1, 2);
    driver.answer_all(Ok(grant(DB)));
    assert!(driver.hub.is_present(DB));
    driver.hub.withdraw(DB);
    driver.drain();
    assert_eq!(driver.told_rights, [AttachmentId(2)]);
    driver.hub.recheck_all();
    driver.drain();
    assert_eq!(driver.told_rights.len(), 1, "it publishes nothing any more");
    assert!(!driver.hub.is_present(DB));
    assert_eq!(driver.gone[0].1, Code::NoService);
    assert!(driver.ends.is_empty());
}

#[test]
fn a_machine_that_is_shut_out_loses_everything() {
    let mut driver = Driver::with_publisher();
    driver.open(1, 2);
    driver.answer_all(Ok(grant(DB)));
    driver.hub.shut_out(MachineId(2), &Refusal::of(Code::Ended));
    driver.links.remove(&LinkId(2));
    driver.ends.retain(|end, _| end.link != LinkId(2));
    driver.drain();
    assert_eq!(driver.ended, [(AttachmentId(2), Code::Ended)]);
    assert_eq!(driver.gone.len(), 1);
    assert!(!driver.hub.is_machine_attached(MachineId(2)));
    assert!(!driver.hub.is_present(DB));
}

#[test]
fn the_last_agent_to_publish_gets_the_routes_while_it_is_there() {
    let mut driver = Driver::with_publisher();
    driver.attach(3);
    driver.up(3, 3);
    driver.publish(3, DB).unwrap();
    assert_eq!(driver.notified, [AttachmentId(2)]);
    driver.open(1, 2);
    driver.answer_all(Ok(grant(DB)));
    driver.detached(3, &[3]);
    driver.open(1, 4);
    driver.answer_all(Ok(grant(DB)));
    let to: Vec<LinkId> = driver.joined.iter().map(|(_, far)| far.link).collect();
    assert_eq!(to, [LinkId(3), LinkId(2)]);
}

#[test]
fn strangers_have_a_time_to_enrol() {
    let mut driver = Driver::new(Limits::default());
    for id in [1, 2] {
        driver
            .hub
            .attach(AttachmentId(id), None, None, driver.now)
            .unwrap();
    }
    driver.hub.enrolled(AttachmentId(2), member(2)).unwrap();
    driver.wait(Limits::default().enrol_within);
    assert_eq!(driver.ended, [(AttachmentId(1), Code::NotEnrolled)]);
    let load = driver.hub.load();
    assert_eq!((load.attachments, load.strangers), (1, 0));
}

#[test]
fn each_limit_is_kept_and_named() {
    let limits = Limits {
        attachments: 6,
        attachments_per_source: 3,
        attachments_per_user: 2,
        strangers: 2,
        strangers_per_source: 1,
        ..Limits::default()
    };
    let mut hub = Hub::new(limits);
    let from = |last| Some(Source::from(IpAddr::from([192, 0, 2, last])));
    let mut next = 0;
    let mut attach = |hub: &mut Hub, source, user: Option<i64>| {
        next += 1;
        let attached = hub.attach(AttachmentId(next), source, user.map(member), Time::ZERO);
        attached.map_err(|why| (why.code, why.text))
    };
    let busy = |result: Result<(), (Code, String)>, limit: &str| {
        let (code, text) = result.unwrap_err();
        assert_eq!(code, Code::Busy);
        assert!(text.contains(limit), "{text}");
    };
    attach(&mut hub, from(1), None).unwrap();
    busy(
        attach(&mut hub, from(1), None),
        "from one address that are not enrolled",
    );
    attach(&mut hub, from(2), None).unwrap();
    busy(attach(&mut hub, from(3), None), "not enrolled");
    attach(&mut hub, from(1), Some(1)).unwrap();
    attach(&mut hub, from(1), Some(1)).unwrap();
    let (code, text) = attach(&mut hub, from(2), Some(1)).unwrap_err();
    assert_eq!(code, Code::AttachmentLimit);
    assert!(text.contains("2 attachments"), "{text}");
    busy(attach(&mut hub, from(1), Some(2)), "from one address");
    attach(&mut hub, from(4), Some(2)).unwrap();
    let refused = hub.enrolled(AttachmentId(1), member(1)).unwrap_err();
    assert_eq!(refused.code, Code::AttachmentLimit);
    // An exception holds at once.
    let kind = LimitKind::Attachments;
    hub.set_exceptions(HashMap::from([((UserId(1), kind), Some(3))]));
    hub.enrolled(AttachmentId(1), member(1)).unwrap();
    assert_eq!(hub.taken_up(UserId(1)), (3, 0));
    attach(&mut hub, from(5), Some(3)).unwrap();
    busy(attach(&mut hub, from(6), Some(4)), "attachments");
    for id in 1..=next {
        hub.detached(AttachmentId(id));
    }
    assert_eq!(hub.load(), Load::default());
    assert!(hub.by_source.is_empty() && hub.users.attached.is_empty() && hub.alarms.is_empty());
}

#[test]
fn routes_have_limits_too() {
    let limits = Limits {
        waiting: 3,
        waiting_per_attachment: 2,
        routes: 5,
        routes_per_attachment: 4,
        services_per_attachment: 1,
        ..Limits::default()
    };
    let mut driver = Driver::new(limits);
    for id in 1..=3 {
        driver.attach(id);
        driver.up(id, id);
    }
    let busy = |driver: &mut Driver| {
        let told = std::mem::take(&mut driver.gone);
        assert!(told.iter().all(|(_, code)| *code == Code::Busy));
        told.len()
    };
    for route in [2, 4, 6] {
        driver.open(1, route);
    }
    assert_eq!(busy(&mut driver), 1, "two may be undecided");
    driver.answer_all(Ok(grant(DB)));
    driver.open(2, 2);
    driver.open(2, 4);
    driver.answer_all(Ok(grant(DB)));
    assert_eq!(busy(&mut driver), 1, "three may wait");
    driver.publish(3, DB).unwrap();
    assert_eq!(driver.joined.len(), 3);
    driver.open(1, 8);
    driver.answer_all(Ok(grant(DB)));
    driver.open(2, 8);
    driver.answer_all(Ok(grant(DB)));
    assert_eq!(busy(&mut driver), 1, "four may lead to one publisher");
    assert_eq!(
        driver.publish(3, ServiceId(2)).unwrap_err().code,
        Code::Busy
    );
    driver.publish(3, DB).unwrap();
}

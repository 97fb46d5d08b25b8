//! Routes to those who wait for somebody.

use super::*;
use crate::rendezvous::{Meeting, Whom, Wish, number_of};

pub(super) fn wish(attachment: u64, whom: Option<i64>) -> Wish {
    let of = member(attachment.cast_signed());
    let whom = whom.map(member);
    Wish {
        attachment: AttachmentId(attachment),
        holder: [0; 16],
        user: of.user,
        user_name: of.user_name,
        machine: [u8::try_from(attachment).unwrap(); 32],
        application: "chat".into(),
        whom: whom.map_or(Whom::Anybody, |it| Whom::User {
            id: it.user,
            name: it.user_name,
        }),
        only: None,
    }
}

fn meet(driver: &mut Driver, wish: Wish) -> Option<Meeting> {
    let met = driver.hub.meet(wish, driver.now);
    driver.drain();
    met.unwrap()
}

/// Two attached users, 1 and 2, each with a link, of whom the second one waits for the first.
fn met() -> (Driver, Meeting) {
    let mut driver = Driver::with_publisher();
    assert_eq!(meet(&mut driver, wish(2, Some(1))), None);
    let met = meet(&mut driver, wish(1, Some(2)));
    assert_eq!(driver.told_meetings, [AttachmentId(2)]);
    (driver, met.unwrap())
}

fn admit(driver: &Driver, met: &Meeting) -> Result<Grant, Code> {
    let admitted = driver.hub.admits(number_of(&met.place), UserId(1), [1; 32]);
    admitted.map_err(|why| why.code)
}

#[test]
fn a_route_leads_to_who_waits_and_ends_with_the_wish() {
    let (mut driver, met) = met();
    assert!(met.opens);
    let near = driver.open(1, 2);
    let grant = admit(&driver, &met).unwrap();
    assert_eq!(
        (grant.name.clone(), grant.owner.as_str()),
        (met.place.to_string(), "user-2")
    );
    driver.answer_all(Ok(grant.clone()));
    assert_eq!(driver.joined[0].0, near);
    assert_eq!(driver.joined[0].1.link, LinkId(2));
    driver.hub.part(&met.place, [0; 16]);
    driver.drain();
    assert!(driver.gone.contains(&(near, Code::ServiceAway)));
    assert_eq!(driver.told_meetings.last(), Some(&AttachmentId(1)));
    assert_eq!(admit(&driver, &met), Err(Code::ServiceAway));
    // Whoever was let in just before is told at once.
    let late = driver.open(1, 4);
    driver.answer_all(Ok(grant));
    assert_eq!(driver.gone.last(), Some(&(late, Code::ServiceAway)));
    assert_eq!(driver.hub.load().routes, 0);
}

#[test]
fn who_waits_and_has_no_link_for_a_moment_is_waited_for() {
    let (mut driver, met) = met();
    let grant = admit(&driver, &met).unwrap();
    driver.down(2);
    let near = driver.open(1, 2);
    driver.answer_all(Ok(grant));
    assert_eq!(driver.absent, [near]);
    driver.up(2, 3);
    assert_eq!(driver.joined[0].0, near);
}

#[test]
fn a_wish_goes_with_its_attachment() {
    let (mut driver, met) = met();
    driver.detached(2, &[2]);
    assert_eq!(admit(&driver, &met), Err(Code::ServiceAway));
    assert_eq!(meet(&mut driver, wish(1, Some(2))), None);
    driver.detached(1, &[1]);
    assert_eq!(driver.hub.load(), Load::default());
}

#[test]
fn who_wishes_for_a_publisher_asks_again_once_it_is_there() {
    let mut driver = Driver::new(Limits::default());
    driver.attach(1);
    driver.up(1, 1);
    let wished = Wish {
        application: "service-1".into(),
        ..wish(1, Some(2))
    };
    assert_eq!(meet(&mut driver, wished), None);
    driver.attach(2);
    driver.up(2, 2);
    assert!(driver.told_meetings.is_empty());
    driver.publish(2, DB).unwrap();
    assert_eq!(driver.told_meetings, [AttachmentId(1)]);
    driver.down(2);
    driver.up(2, 3);
    assert_eq!(driver.told_meetings.len(), 2, "it has come back");
    driver.hub.recheck(DB);
    driver.drain();
    assert_eq!(driver.told_meetings.len(), 3, "it may be allowed now");
}

#[test]
fn wishes_of_one_agent_are_bounded() {
    let mut driver = Driver::new(Limits {
        services_per_attachment: 2,
        ..Limits::default()
    });
    driver.attach(1);
    driver.up(1, 1);
    driver.publish(1, DB).unwrap();
    meet(&mut driver, wish(1, Some(2)));
    let refused = driver.hub.meet(wish(1, None), driver.now);
    assert_eq!(refused.unwrap_err().code, Code::Busy);
    meet(&mut driver, wish(1, Some(2)));
}

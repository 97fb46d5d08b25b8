//! Who can read a session: chosen by who connects, allowed by the publisher and the relay, shown at both ends. With real
//! processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use running::{Home, Relay, count, counting_service, exchange};

/// The grades, the most secret one first.
const GRADES: [&str; 3] = ["blind", "relay", "none"];

/// The grade of each session that the agents of a home have.
fn grades_in_status(home: &Home) -> Vec<String> {
    let status = home.ok(&["status", "--offline", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let agents = status["agents"].as_array().unwrap().iter();
    let sessions = agents.flat_map(|agent| agent["sessions"].as_array().unwrap());
    let grades = sessions.map(|session| session["grade"].as_str().unwrap().to_owned());
    grades.collect()
}

#[test]
fn a_grade_needs_the_will_of_all_three() {
    let relay = Relay::with(&["--lowest-grade", "none"]);
    let alice = relay.administrator();
    let target = counting_service().to_string();
    let publishing: Vec<_> = GRADES
        .iter()
        .map(|lowest| {
            let name = format!("for-{lowest}");
            alice.start(&["publish", &name, &target, "--lowest-grade", lowest])
        })
        .collect();
    let bob = relay.invited(&alice, "bob");
    for (allowed, lowest) in GRADES.iter().enumerate() {
        let name = format!("for-{lowest}");
        alice.ok(&["services", "allow", "bob", &name]);
        for (asked, grade) in GRADES.iter().enumerate() {
            let nc = ["nc", &name, "--grade", grade];
            if asked <= allowed {
                assert_eq!(bob.ok(&nc), count(b""), "{name} {grade}");
            } else {
                let refused = bob.fails(3, &nc);
                assert!(refused.contains("UP-GRADE"), "{name} {grade}: {refused}");
            }
        }
    }
    assert_eq!(bob.ok(&["nc", "for-none"]), count(b""));

    for grade in GRADES {
        let connect = bob.start(&["connect", "for-none", "--grade", grade]);
        assert_eq!(exchange(connect.address(), b"x"), count(b"x"));
        assert_eq!(grades_in_status(&bob), [grade]);
        assert_eq!(grades_in_status(&alice), [grade]);
        assert_eq!(connect.stop(), Some(0));
    }
    drop(publishing);
}

#[test]
fn a_relay_that_allows_nothing_else_refuses() {
    let relay = Relay::start();
    let alice = relay.administrator();
    let target = counting_service().to_string();
    let _publish = alice.start(&["publish", "counter", &target, "--lowest-grade", "none"]);
    for grade in ["relay", "none"] {
        let refused = alice.fails(3, &["nc", "counter", "--grade", grade]);
        assert!(
            refused.contains("UP-GRADE") && refused.contains("this relay"),
            "{refused}"
        );
    }
    assert_eq!(alice.ok(&["nc", "counter"]), count(b""));
    let wrong = alice.fails(2, &["nc", "counter", "--grade", "some"]);
    assert!(wrong.contains("blind, relay, none"), "{wrong}");
}

//! Which grades are let through.

use super::*;

fn open(driver: &mut Driver, route: u32, grade: Grade) -> RouteEnd {
    let end = RouteEnd {
        link: LinkId(1),
        route,
    };
    driver.ends.insert(end, None);
    let opening = Opening {
        grade,
        ..opening(route, "db")
    };
    driver.hub.open(end.link, opening);
    driver.drain();
    end
}

#[test]
fn what_is_below_the_lowest_grade_is_refused_before_anybody_is_asked() {
    for lowest in Grade::ALL {
        for grade in Grade::ALL {
            let mut driver = Driver::with_publisher();
            driver.hub.limits.lowest_grade = lowest;
            let end = open(&mut driver, 2, grade);
            if grade < lowest {
                assert_eq!(driver.gone, [(end, Code::GradeRefused)]);
                assert!(driver.checks.is_empty());
                continue;
            }
            assert_eq!((driver.gone.len(), driver.checks.len()), (0, 1));
        }
    }
}

#[test]
fn a_session_that_goes_on_tells_its_grade_and_is_refused_then() {
    let mut driver = Driver::with_publisher();
    let [near, other] = [2, 4].map(|route| open(&mut driver, route, Grade::Blind));
    driver.hub.graded(near, Grade::Blind);
    driver.drain();
    assert!(driver.gone.is_empty());
    driver.hub.graded(near, Grade::Relay);
    // Of a route that is no more there is nothing to say.
    driver.hub.graded(near, Grade::None);
    driver.drain();
    assert_eq!(driver.gone, [(near, Code::GradeRefused)]);
    assert!(driver.ends.contains_key(&other));
}

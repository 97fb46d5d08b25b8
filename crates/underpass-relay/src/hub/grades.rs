//! How little secrecy this relay allows a session between two agents.

use underpass_proto::{Code, Grade};

use super::{Hub, RouteEnd};
use crate::refusal::Refusal;

impl Hub {
    pub(super) fn check_grade(&self, grade: Grade) -> Result<(), Refusal> {
        let lowest = self.limits.lowest_grade;
        if grade >= lowest {
            return Ok(());
        }
        let text = format!("this relay allows no session of grade {grade}, the lowest is {lowest}");
        Err(Refusal::new(Code::GradeRefused, text))
    }

    /// The agent that opened a route says with what grade its session is kept secret: of one that goes on, the first packet
    /// does not tell.
    pub fn graded(&mut self, near: RouteEnd, grade: Grade) {
        if let Err(why) = self.check_grade(grade)
            && let Some(id) = self.route_at(near)
        {
            self.refuse(id, why);
        }
    }
}

//! The legs that carry a session, by the names that both ends know them by.

use smallvec::SmallVec;
use underpass_seal::ResumeSecret;

use crate::frame::{LegName, MAX_LEGS};
use crate::session::LegId;

/// Names of legs.
pub(crate) type LegNames = SmallVec<[LegName; 2]>;

/// The legs that one end holds for active, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing(SmallVec<[(LegId, LegName); 2]>);

/// What a leg is called that begins with the generation of this secret. Each generation begins one
/// leg at the most, so no two legs have one name, and nobody else can know it.
fn name(secret: &ResumeSecret) -> LegName {
    let [a, b, c, d, e, f, g, h, ..] = secret.confirm_tag();
    [a, b, c, d, e, f, g, h]
}

impl Standing {
    /// `leg` begins, with the generation of `secret`, beside those of `others` that are here; all
    /// the rest are done. Never more than [`MAX_LEGS`], the newest of them.
    pub(crate) fn begin(&mut self, leg: LegId, secret: &ResumeSecret, others: &[LegName]) {
        self.0
            .retain(|(id, name)| *id != leg && others.contains(name));
        while self.0.len() >= MAX_LEGS {
            self.0.remove(0);
        }
        self.0.push((leg, name(secret)));
    }

    pub(crate) fn gone(&mut self, leg: LegId) {
        self.0.retain(|(id, _)| *id != leg);
    }

    pub(crate) fn holds(&self, leg: LegId) -> bool {
        self.0.iter().any(|(id, _)| *id == leg)
    }

    /// The names of all legs but one.
    pub(crate) fn names(&self, but: Option<LegId>) -> LegNames {
        let others = self.0.iter().filter(|(id, _)| Some(*id) != but);
        others.map(|(_, name)| *name).collect()
    }

    /// Those of `names` that are here, the newest if there are more than `most`.
    pub(crate) fn known(&self, names: &[LegName], most: usize) -> LegNames {
        let known = self.0.iter().rev().map(|(_, name)| *name);
        known
            .filter(|name| names.contains(name))
            .take(most)
            .collect()
    }

    /// Everything that it goes by, to tell states apart.
    #[cfg(test)]
    pub(super) fn summary(&self, out: &mut Vec<u8>) {
        for (leg, name) in &self.0 {
            out.extend(leg.0.to_be_bytes());
            out.extend(name);
        }
        out.push(0xfe);
    }

    /// The legs, in order of their numbers.
    #[cfg(test)]
    pub(super) fn legs(&self) -> Vec<LegId> {
        let mut legs: Vec<LegId> = self.0.iter().map(|(id, _)| *id).collect();
        legs.sort();
        legs
    }

    /// For broken rules: puts legs back that another standing had.
    #[cfg(test)]
    pub(super) fn put_back(&mut self, from: &Standing) {
        for (leg, name) in &from.0 {
            if !self.holds(*leg) {
                self.0.push((*leg, *name));
            }
        }
    }
}

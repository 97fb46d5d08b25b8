//! Why a relay has its place, in words.

use underpass_proto::Time;

use super::{Choice, Presence, UNRELIABLE};

impl Choice {
    /// What is known of a relay, and why it is chosen or not.
    pub(super) fn words(&self, now: Time, at: usize) -> String {
        let relay = &self.relays[at];
        if relay.presence == Presence::Away {
            return "not reached".into();
        }
        let Some(together) = self.together(now, at) else {
            let in_use = if self.chosen == Some(at) {
                "; in use"
            } else {
                ""
            };
            return format!("not measured yet{in_use}");
        };
        let to = if together.far_known {
            "to the far end and back"
        } else {
            "to the relay and back"
        };
        let mut words = format!("{:.1} ms {to}", together.round_trip * 1e3);
        if let Some(rate) = together.rate() {
            words += &format!(", {rate} B/s");
        }
        for (share, what) in [
            (relay.failing, "of attempts fail"),
            (relay.dropping, "of what is sent is dropped"),
        ] {
            let share = share.at(now);
            if share >= self.settings.error_margin {
                words += &format!(", {:.0} % {what}", share * 1e2);
            }
        }
        if relay.presence == Presence::Resting {
            return words + " when it was last looked at; not attached to now";
        }
        match self.chosen {
            Some(chosen) if chosen == at => words += "; in use",
            Some(chosen) => words += &self.compared(now, at, chosen),
            None => {}
        }
        words
    }

    /// Why another one than the chosen one is not chosen.
    fn compared(&self, now: Time, at: usize, chosen: usize) -> String {
        if self.clearly_better(now, at, chosen) {
            let since = self.better.map_or(now, |(_, since)| since);
            let dwell = self.dwell(now, at, chosen);
            let wait = self.settings.persist.saturating_sub(now.since(since));
            let dwelt = self.since.map_or(dwell, |since| now.since(since));
            let wait = wait.max(dwell.saturating_sub(dwelt));
            return format!("; better, taken in {} s if it stays so", wait.as_secs() + 1);
        }
        if self.clearly_better(now, chosen, at) || self.relays[at].failing(now) >= UNRELIABLE {
            return "; worse than the one in use".into();
        }
        "; as good as the one in use".into()
    }
}

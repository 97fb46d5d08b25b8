//! What each user may take up: what is usual, and the exceptions in the store. The [hub](crate::hub) goes by it for
//! attachments and sessions, [meters](crate::meter) for rates; the rest is kept here.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use underpass_proto::limit::LimitKind;
use underpass_store::{LimitException, UserId};

use crate::hub::Exceptions;
use crate::refusal::Refusal;
use crate::settings::Settings;

/// What is usual; `None` for no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usual([Option<u64>; LimitKind::ALL.len()]);

impl Usual {
    /// As the relay is set.
    pub(crate) fn of(settings: &Settings) -> Self {
        let count = |count: usize| Some(count as u64);
        let size = |size: usize| (size > 0).then_some(size as u64);
        Self(LimitKind::ALL.map(|kind| match kind {
            LimitKind::Attachments => count(settings.attachments_per_user),
            LimitKind::Sessions => count(settings.sessions_per_user),
            LimitKind::Channels => count(settings.channels_per_user),
            LimitKind::BytesPerSecond => size(settings.rate_per_user.0),
            LimitKind::BytesPerMonth => size(settings.month_per_user.0),
        }))
    }

    /// How much of something is usual.
    pub(crate) fn of_kind(self, kind: LimitKind) -> Option<u64> {
        self.0[usize::from(kind.code())]
    }
}

/// What each user may take up; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct UserLimits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    usual: Usual,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    exceptions: Exceptions,
    channels: HashMap<UserId, usize>,
    exhausted: HashSet<UserId>,
}

/// A channel that counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    limits: UserLimits,
    user: UserId,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = self.limits.state();
        if let Some(count) = state.channels.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                state.channels.remove(&self.user);
            }
        }
    }
}

impl UserLimits {
    pub(crate) fn new(usual: Usual) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Shared { usual, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the exceptions that there are now; what they are as the hub takes them.
    pub(crate) fn set_exceptions(&self, all: &[LimitException]) -> Exceptions {
        let exceptions: Exceptions = all
            .iter()
            .map(|it| ((it.user, it.kind), it.value))
            .collect();
        self.state().exceptions.clone_from(&exceptions);
        exceptions
    }

    /// How fast users may be: what is usual, and what holds for some of them instead; 0 for no limit.
    pub(crate) fn rates(&self) -> (u64, HashMap<UserId, u64>) {
        let kind = LimitKind::BytesPerSecond;
        let state = self.state();
        let exceptions = state.exceptions.iter();
        let rates = exceptions.filter(|((_, of), _)| *of == kind);
        let rates = rates.map(|((user, _), rate)| (*user, rate.map_or(0, |rate| rate.max(1))));
        (self.0.usual.of_kind(kind).unwrap_or(0), rates.collect())
    }

    /// How much of something a user may have, and whether that is an exception; `None` for no limit.
    pub(crate) fn allowed(&self, user: UserId, kind: LimitKind) -> (Option<u64>, bool) {
        match self.state().exceptions.get(&(user, kind)) {
            Some(exception) => (*exception, true),
            None => (self.0.usual.of_kind(kind), false),
        }
    }

    /// Whether anybody has a limit of that kind.
    pub(crate) fn any(&self, kind: LimitKind) -> bool {
        let state = self.state();
        let mut exceptions = state.exceptions.iter();
        self.0.usual.of_kind(kind).is_some()
            || exceptions.any(|((_, of), most)| *of == kind && most.is_some())
    }

    /// Counts one more channel of which this relay is an end.
    ///
    /// # Errors
    /// The user has as many as are allowed, or has used all that is allowed in a month.
    pub(crate) fn begin_channel(&self, user: UserId) -> Result<Counted, Refusal> {
        if self.state().exhausted.contains(&user) {
            return Err(self.exhausted(user));
        }
        let (most, _) = self.allowed(user, LimitKind::Channels);
        let mut state = self.state();
        let count = state.channels.get(&user).copied().unwrap_or(0);
        match most {
            Some(most) if count as u64 >= most => Err(Refusal::of_limit(LimitKind::Channels, most)),
            _ => {
                state.channels.insert(user, count + 1);
                let limits = self.clone();
                Ok(Counted { limits, user })
            }
        }
    }

    /// How many such channels a user has.
    pub(crate) fn channels(&self, user: UserId) -> usize {
        self.state().channels.get(&user).copied().unwrap_or(0)
    }

    /// Those who have used all that they may in this month, by what each has used.
    pub(crate) fn find_exhausted(&self, used: &[(UserId, u64)]) -> HashMap<UserId, Refusal> {
        let over = |(user, used): &(UserId, u64)| {
            let most = self.allowed(*user, LimitKind::BytesPerMonth).0?;
            (*used >= most).then(|| (*user, Refusal::of_limit(LimitKind::BytesPerMonth, most)))
        };
        let found: HashMap<UserId, Refusal> = used.iter().filter_map(over).collect();
        self.state().exhausted = found.keys().copied().collect();
        found
    }

    /// Whether a user has used nine tenths of a month's bytes, and how many those are.
    pub(crate) fn is_near(&self, user: UserId, used: u64) -> Option<u64> {
        let most = self.allowed(user, LimitKind::BytesPerMonth).0?;
        (used < most && used >= most - most / 10).then_some(most)
    }

    fn exhausted(&self, user: UserId) -> Refusal {
        let (most, _) = self.allowed(user, LimitKind::BytesPerMonth);
        Refusal::of_limit(LimitKind::BytesPerMonth, most.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use underpass_proto::Code;

    use super::*;

    const ALICE: UserId = UserId(1);
    const BOB: UserId = UserId(2);

    fn limits(kind: LimitKind, value: Option<u64>) -> UserLimits {
        let limits = UserLimits::new(Usual([Some(2); 5]));
        let user = BOB;
        limits.set_exceptions(&[LimitException { user, kind, value }]);
        limits
    }

    #[test]
    fn channels_are_counted_for_each_user() {
        let limits = limits(LimitKind::Channels, Some(1));
        let first = limits.begin_channel(ALICE).unwrap();
        let _second = limits.begin_channel(ALICE).unwrap();
        let refused = limits.begin_channel(ALICE).unwrap_err();
        assert_eq!(refused.code, Code::ChannelLimit);
        assert!(refused.is_limit() && refused.text.contains("2 channels"));
        assert!(refused.text.contains("underpass users limit"), "{refused}");
        drop(first);
        limits.begin_channel(ALICE).unwrap();
        let _bobs = limits.begin_channel(BOB).unwrap();
        assert!(limits.begin_channel(BOB).is_err(), "an exception");
        assert_eq!(limits.channels(BOB), 1);
        limits.set_exceptions(&[]);
        limits.begin_channel(BOB).unwrap();
    }

    #[test]
    fn a_month_has_an_end_and_a_warning() {
        let limits = limits(LimitKind::BytesPerMonth, Some(1000));
        for (used, near) in [
            (899, None),
            (900, Some(1000)),
            (999, Some(1000)),
            (1000, None),
        ] {
            assert_eq!(limits.is_near(BOB, used), near, "{used}");
        }
        let found = limits.find_exhausted(&[(ALICE, 1), (BOB, 1000)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&BOB].code, Code::MonthLimit);
        assert_eq!(limits.begin_channel(BOB).unwrap_err(), found[&BOB]);
        limits.begin_channel(ALICE).unwrap();
        limits.find_exhausted(&[(BOB, 999)]);
        limits.begin_channel(BOB).unwrap();
        // Whoever may use what there is, is never near.
        let kind = LimitKind::BytesPerMonth;
        let (user, value) = (BOB, None);
        limits.set_exceptions(&[LimitException { user, kind, value }]);
        assert_eq!(limits.is_near(BOB, u64::MAX), None);
        assert!(limits.find_exhausted(&[(BOB, u64::MAX)]).is_empty());
    }

    #[test]
    fn rates_have_exceptions_both_ways() {
        let limits = limits(LimitKind::BytesPerSecond, None);
        assert_eq!(limits.rates(), (2, HashMap::from([(BOB, 0)])));
        let kind = LimitKind::BytesPerSecond;
        let (user, value) = (ALICE, Some(0));
        limits.set_exceptions(&[LimitException { user, kind, value }]);
        // Nothing at all would be no rate; who may use nothing is disabled.
        assert_eq!(limits.rates().1[&ALICE], 1);
    }
}

//! How often each source has shown a wrong token or password, and how long it waits for it. Pure.
//!
//! Nobody guesses a token of 256 bits. What is bounded there is the work that wrong ones make for the
//! store, such as that of a script which goes on with a token that was revoked years ago. Passwords
//! are guessed: beside wrong tokens (by their keys) stand logins that failed (by the machine's key).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use underpass_proto::Time;

/// Wrong tokens that a source may show before it has to wait.
const FREE: u32 = 10;
/// The first wait; each further wrong token doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// After so long without another one, one wrong token is forgotten; waiting does not count.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// The most that is counted, so that every source is forgotten half an hour after its last wait.
const MOST_COUNTED: u32 = 60;
/// Sources that are remembered.
const MOST_SOURCES: usize = 4096;
/// Tokens that are remembered because they were right.
const MOST_PROVEN: usize = 1024;

/// The public half of a token's key.
pub(crate) type TokenKey = [u8; 32];

/// Where a request comes from: an IPv4 address, or the /64 of an IPv6 address, in which a single
/// machine has as many addresses as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    /// The source that an address belongs to.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(underpass_carrier::source_of(address))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    wrong: u32,
    /// Since when nothing was forgotten; until then the source waits.
    since: Time,
}

impl Tally {
    fn new(now: Time) -> Self {
        Self {
            wrong: 0,
            since: now,
        }
    }

    /// How many are not forgotten.
    fn remembered(&self, now: Time) -> u32 {
        let forgotten = now.since(self.since).as_secs() / FORGOTTEN_AFTER.as_secs();
        let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
        self.wrong.saturating_sub(forgotten)
    }
}

/// The sources of wrong tokens.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    sources: HashMap<Source, Tally>,
    /// When a token was last right.
    proven: HashMap<TokenKey, Time>,
}

impl Attempts {
    /// Whether a token from `source` is looked at. One that was right before always is: whoever shares
    /// an address with somebody else, as everybody behind one proxy does, does not wait for him.
    ///
    /// # Errors
    /// How long the source still has to wait.
    pub(crate) fn admit(
        &self,
        source: Source,
        token: Option<&TokenKey>,
        now: Time,
    ) -> Result<(), Duration> {
        if token.is_some_and(|token| self.proven.contains_key(token)) {
            return Ok(());
        }
        let until = self.sources.get(&source).map_or(now, |it| it.since);
        match until.since(now) {
            Duration::ZERO => Ok(()),
            wait => Err(wait),
        }
    }

    /// A token was right.
    pub(crate) fn right(&mut self, token: TokenKey, now: Time) {
        make_room(&mut self.proven, MOST_PROVEN, &token, |last| *last);
        self.proven.insert(token, now);
    }

    /// What was counted as wrong beforehand, because it shows only later, was right after all.
    pub(crate) fn take_back(&mut self, source: Source) {
        if let Some(tally) = self.sources.get_mut(&source) {
            tally.wrong = tally.wrong.saturating_sub(1);
        }
    }

    /// A token was wrong, perhaps one that cannot even be one. How long its source waits now.
    pub(crate) fn wrong(
        &mut self,
        source: Source,
        token: Option<&TokenKey>,
        now: Time,
    ) -> Duration {
        if let Some(token) = token {
            self.proven.remove(token);
        }
        make_room(&mut self.sources, MOST_SOURCES, &source, |it| it.since);
        let tally = self.sources.entry(source).or_insert(Tally::new(now));
        tally.wrong = (tally.remembered(now) + 1).min(MOST_COUNTED);
        let wait = match tally.wrong.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(over) => {
                let doubled = 1u32.checked_shl(over).unwrap_or(u32::MAX);
                FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT)
            }
        };
        tally.since = now + wait;
        wait
    }
}

/// Lets the oldest entry of a full map go, unless `key` has a place in it.
fn make_room<K: Copy + Eq + std::hash::Hash, V>(
    map: &mut HashMap<K, V>,
    most: usize,
    key: &K,
    age: impl Fn(&V) -> Time,
) {
    if map.len() < most || map.contains_key(key) {
        return;
    }
    let oldest = map.iter().min_by_key(|(_, value)| age(value));
    if let Some(oldest) = oldest.map(|(key, _)| *key) {
        map.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_wait_grows_and_has_an_end() {
        let (mut attempts, them) = (Attempts::default(), source("203.0.113.7"));
        let mut now = at(1000);
        for _ in 0..FREE {
            assert_eq!(attempts.wrong(them, None, now), Duration::ZERO);
            assert_eq!(attempts.admit(them, None, now), Ok(()));
        }
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let wait = attempts.wrong(them, None, now);
            assert_eq!(wait, seconds * SECOND);
            assert_eq!(attempts.admit(them, None, now), Err(wait));
            let almost = now + wait - SECOND / 2;
            assert_eq!(attempts.admit(them, None, almost), Err(SECOND / 2));
            now = now + wait;
            assert_eq!(attempts.admit(them, None, now), Ok(()));
        }
        let other = source("203.0.113.8");
        assert_eq!(
            attempts.admit(other, None, now),
            Ok(()),
            "others do not wait"
        );
    }

    #[test]
    fn what_is_taken_back_does_not_count() {
        let (mut attempts, them) = (Attempts::default(), source("203.0.113.7"));
        for _ in 0..1000 {
            assert_eq!(attempts.wrong(them, None, at(0)), Duration::ZERO);
            attempts.take_back(them);
        }
        assert_eq!(attempts.admit(them, None, at(0)), Ok(()));
        attempts.take_back(source("203.0.113.8"));
    }

    #[test]
    fn wrong_tokens_are_forgotten_with_time() {
        let (mut attempts, them) = (Attempts::default(), source("203.0.113.7"));
        for _ in 0..FREE {
            attempts.wrong(them, None, at(0));
        }
        // One is forgotten, and then it is as it was.
        assert_eq!(attempts.wrong(them, None, at(30)), Duration::ZERO);
        assert_eq!(attempts.wrong(them, None, at(59)), SECOND);
        // Whoever makes a mistake now and then never waits.
        for minute in 100..200 {
            let wait = attempts.wrong(them, None, at(60 * minute));
            assert_eq!(wait, Duration::ZERO);
        }
        // However many there were.
        for _ in 0..1000 {
            attempts.wrong(them, None, at(20_000));
        }
        let later = at(20_000) + LONGEST_WAIT + FORGOTTEN_AFTER * MOST_COUNTED;
        for _ in 0..FREE {
            assert_eq!(attempts.wrong(them, None, later), Duration::ZERO);
        }
    }

    #[test]
    fn who_was_right_before_does_not_wait_for_others_at_the_same_address() {
        let (mut attempts, them) = (Attempts::default(), source("203.0.113.7"));
        let (good, new) = ([1; 32], [2; 32]);
        attempts.right(good, at(0));
        for _ in 0..=FREE {
            attempts.wrong(them, Some(&new), at(0));
        }
        assert_eq!(attempts.admit(them, Some(&good), at(0)), Ok(()));
        assert_eq!(attempts.admit(them, Some(&new), at(0)), Err(SECOND));
        assert_eq!(attempts.admit(them, None, at(0)), Err(SECOND));
        // Until it is revoked.
        attempts.wrong(them, Some(&good), at(0));
        assert!(attempts.admit(them, Some(&good), at(0)).is_err());
    }

    #[test]
    fn a_source_is_a_network_where_addresses_cost_nothing() {
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::2"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
        assert_eq!(source("192.0.2.1").to_string(), "192.0.2.1");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let mut attempts = Attempts::default();
        let them = source("203.0.113.7");
        for _ in 0..FREE + 7 {
            attempts.wrong(them, None, at(0));
        }
        for number in 0..2 * MOST_SOURCES as u32 {
            let address = std::net::Ipv4Addr::from_bits(number);
            attempts.wrong(Source::of(address.into()), None, at(30));
            attempts.right([number.to_be_bytes()[3]; 32], at(30));
        }
        assert_eq!(attempts.sources.len(), MOST_SOURCES);
        // Who still waits is not forgotten for those who do not.
        assert!(attempts.admit(them, None, at(31)).is_err());
        for number in 0..2 * MOST_PROVEN as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            attempts.right(key, at(31 + number));
        }
        assert_eq!(attempts.proven.len(), MOST_PROVEN);
        assert!(!attempts.proven.contains_key(&[5; 32]));
    }

    proptest! {
        /// However somebody tries, and although he waits no longer than he must.
        #[test]
        fn what_passes_is_bounded(pauses in prop::collection::vec(0u64..3_000, 1..400)) {
            let (mut attempts, them) = (Attempts::default(), source("203.0.113.7"));
            let (mut now, mut passed) = (Time::ZERO, 0u64);
            for pause in pauses {
                now = now + Duration::from_millis(pause);
                if attempts.admit(them, None, now).is_ok() {
                    attempts.wrong(them, None, now);
                    passed += 1;
                }
            }
            // Ten at once, seven while the wait grows, and then one a minute.
            let minutes = now.as_micros() / 60_000_000 + 1;
            prop_assert!(passed <= 17 + minutes, "{passed} in {minutes} minutes");
        }
    }
}

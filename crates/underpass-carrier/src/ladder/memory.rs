//! What is remembered of networks, so that the next start goes straight to what worked. Pure: text in,
//! text out; whoever calls keeps the file.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::mark::LONGEST_BACKOFF;

/// Networks that are remembered; the one that was not met for longest goes first.
const MOST: usize = 64;
/// Carriers that are remembered to have failed, on each.
const MOST_HELD: usize = 10;
/// The longest key, in bytes.
const LONGEST_KEY: usize = 512;
/// The longest line that is read, in bytes: a key, and three times what is written of one network at most.
const LONGEST_LINE: usize = 2048;
/// The first line of the file.
const TITLE: &str = "underpass networks 1";

/// Which network a machine is on, as far as it matters for carriers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network<'a> {
    /// Our own address towards the relay.
    pub local: Option<IpAddr>,
    /// The first router on the way.
    pub gateway: Option<IpAddr>,
    /// The interface's name.
    pub interface: Option<&'a str>,
    /// The proxy in use: host and port, without credentials.
    pub proxy: Option<&'a str>,
    /// The relay's address.
    pub relay: &'a str,
}

impl Network<'_> {
    /// A key that is the same whenever this machine is on the same network, as far as can be told.
    /// Nothing in it is secret. Addresses of one subnet are alike: a lease may bring another one.
    #[must_use]
    pub fn key(&self) -> String {
        let Self {
            local,
            gateway,
            interface,
            proxy,
            relay,
        } = self;
        let subnet = local.map(subnet).unwrap_or_default();
        let gateway = gateway.map(|it| it.to_string()).unwrap_or_default();
        let parts = [
            relay,
            subnet.as_str(),
            gateway.as_str(),
            interface.unwrap_or_default(),
            proxy.unwrap_or_default(),
        ];
        let clean =
            |part: &&str| part.replace(|c: char| c.is_control() || c == ' ' || c == '|', "_");
        let mut key = parts.iter().map(clean).collect::<Vec<_>>().join("|");
        while key.len() > LONGEST_KEY {
            key.pop();
        }
        key
    }
}

/// The subnet of an address: prefixes are seldom known without asking the system, and these are the
/// usual ones.
fn subnet(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// What is remembered of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The carrier that carried last.
    pub best: String,
    /// The largest body, in bytes, that passes: measured, or what was left after larger ones were
    /// refused.
    pub largest_body: Option<usize>,
    /// The longest time for which requests are held without being cut; in seconds, rounded down.
    pub longest_hold: Option<Duration>,
    /// How often something must be said so that nothing is cut as idle; in milliseconds.
    pub keepalive: Option<Duration>,
    /// Carriers that failed, and are left alone.
    pub held: Vec<HeldAgainst>,
}

/// A carrier that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldAgainst {
    /// Its name.
    pub carrier: String,
    /// How many times.
    pub failures: u32,
    /// Until when it is left alone, in seconds since 1970.
    pub until: u64,
}

impl Remembered {
    /// What is to be written by a program that knows this, and wrote or read `before` last, where it
    /// finds `theirs` by then, which another program has written: what it has changed itself, and
    /// the other's word on the rest.
    #[must_use]
    pub fn merged(&self, before: &Remembered, theirs: &Remembered) -> Remembered {
        fn newer<T: Clone + PartialEq>(ours: &T, before: &T, theirs: &T) -> T {
            if ours == before { theirs } else { ours }.clone()
        }
        let mut carriers: Vec<&str> = Vec::new();
        for held in self.held.iter().chain(&theirs.held) {
            if !carriers.contains(&held.carrier.as_str()) {
                carriers.push(&held.carrier);
            }
        }
        let of = |remembered: &Remembered, carrier: &str| {
            let mut held = remembered.held.iter();
            held.find(|held| held.carrier == carrier).cloned()
        };
        let held = |carrier: &str| {
            newer(
                &of(self, carrier),
                &of(before, carrier),
                &of(theirs, carrier),
            )
        };
        Remembered {
            best: newer(&self.best, &before.best, &theirs.best),
            largest_body: newer(
                &self.largest_body,
                &before.largest_body,
                &theirs.largest_body,
            ),
            longest_hold: newer(
                &self.longest_hold,
                &before.longest_hold,
                &theirs.longest_hold,
            ),
            keepalive: newer(&self.keepalive, &before.keepalive, &theirs.keepalive),
            held: carriers.into_iter().filter_map(held).collect(),
        }
    }

    /// What is still held against carriers at `now`, in seconds since 1970, and for how long. What
    /// would last longer than any wait does was written by a clock that went wrong.
    pub fn held_at(&self, now: u64) -> impl Iterator<Item = (&HeldAgainst, Duration)> {
        let left = move |held: &HeldAgainst| {
            let left = Duration::from_secs(held.until.checked_sub(now)?);
            (left > Duration::ZERO && left <= LONGEST_BACKOFF * 2).then_some(left)
        };
        self.held
            .iter()
            .filter_map(move |held| Some((held, left(held)?)))
    }
}

/// What is remembered of all networks, the one met last at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    networks: Vec<(String, Remembered)>,
}

impl Memory {
    /// Reads what [`Memory::to_text`] wrote. What cannot be read is left out: it is only memory.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut memory = Memory::default();
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return memory;
        }
        for line in lines
            .filter(|line| line.len() <= LONGEST_LINE)
            .take(4 * MOST)
        {
            if let Some((key, remembered)) = parse_line(line) {
                memory.learn(&key, remembered);
            }
        }
        memory
    }

    /// The whole as text, bounded to 128 KiB.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{TITLE}\n");
        for (key, remembered) in &self.networks {
            write_line(&mut text, key, remembered);
        }
        text
    }

    /// What is remembered of a network.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<&Remembered> {
        let found = self.networks.iter().find(|(other, _)| other == key);
        found.map(|(_, remembered)| remembered)
    }

    /// Takes in what was seen of a network, instead of what was known.
    pub fn learn(&mut self, key: &str, remembered: Remembered) {
        self.networks.retain(|(other, _)| other != key);
        if self.networks.len() == MOST {
            self.networks.remove(0);
        }
        self.networks.push((key.to_owned(), remembered));
    }
}

/// Key, best carrier, largest body (or `-`), and what else is known, each as `NAME=VALUE`. A reader
/// passes over names that it does not know.
fn write_line(text: &mut String, key: &str, remembered: &Remembered) {
    let Remembered {
        best,
        largest_body,
        longest_hold,
        keepalive,
        held,
    } = remembered;
    let body = largest_body.map_or("-".to_owned(), |it| it.to_string());
    // Writing to a String cannot fail.
    let _ = write!(text, "{key} {best} {body}");
    if let Some(hold) = longest_hold {
        let _ = write!(text, " hold={}", hold.as_secs());
    }
    if let Some(every) = keepalive {
        let _ = write!(text, " alive={}", every.as_millis());
    }
    for held in held.iter().take(MOST_HELD) {
        let HeldAgainst {
            carrier,
            failures,
            until,
        } = held;
        let _ = write!(text, " not={carrier}:{failures}:{until}");
    }
    text.push('\n');
}

fn is_name(word: &str) -> bool {
    (1..=16).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn parse_line(line: &str) -> Option<(String, Remembered)> {
    let mut words = line.split(' ');
    let key = words.next().filter(|key| !key.is_empty())?;
    let best = words.next().filter(|word| is_name(word))?;
    let largest_body = match words.next() {
        None | Some("-") => None,
        Some(word) => Some(word.parse().ok()?),
    };
    let mut remembered = Remembered {
        best: best.to_owned(),
        largest_body,
        ..Remembered::default()
    };
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        match name {
            "hold" => remembered.longest_hold = value.parse().ok().map(Duration::from_secs),
            "alive" => remembered.keepalive = value.parse().ok().map(Duration::from_millis),
            "not" if remembered.held.len() < MOST_HELD => remembered.held.extend(parse_held(value)),
            _ => {}
        }
    }
    Some((key.to_owned(), remembered))
}

fn parse_held(text: &str) -> Option<HeldAgainst> {
    let mut parts = text.split(':');
    let carrier = parts.next().filter(|word| is_name(word))?.to_owned();
    let failures = parts.next()?.parse().ok()?;
    let until = parts.next()?.parse().ok()?;
    Some(HeldAgainst {
        carrier,
        failures,
        until,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(local: &str) -> Network<'static> {
        Network {
            local: Some(local.parse().unwrap()),
            gateway: Some("192.168.7.1".parse().unwrap()),
            interface: Some("wlan0"),
            proxy: None,
            relay: "https://relay.example:443/",
        }
    }

    #[test]
    fn a_network_is_known_again_and_told_from_others() {
        let home = network("192.168.7.20").key();
        assert_eq!(home, network("192.168.7.99").key(), "another lease");
        assert_eq!(home, network("::ffff:192.168.7.99").key());
        assert_ne!(home, network("192.168.8.20").key());
        let v6 = network("2001:db8:1:2:aaaa::1").key();
        assert_eq!(v6, network("2001:db8:1:2:bbbb::9").key());
        assert_ne!(v6, network("2001:db8:1:3:aaaa::1").key());
        let behind_proxy = Network {
            proxy: Some("proxy:3128"),
            ..network("192.168.7.20")
        };
        assert_ne!(home, behind_proxy.key());
        let other_relay = Network {
            relay: "http://other/",
            ..network("192.168.7.20")
        };
        assert_ne!(home, other_relay.key());
        let odd = Network {
            interface: Some("a b|c\nd"),
            ..network("192.168.7.20")
        };
        assert!(!odd.key().contains([' ', '\n']));
    }

    fn remembered(best: &str) -> Remembered {
        Remembered {
            best: best.into(),
            largest_body: Some(62_500),
            longest_hold: Some(Duration::from_secs(9)),
            keepalive: Some(Duration::from_millis(2500)),
            held: vec![held("quic", 1_800_000_000), held("h2", 1_800_000_060)],
        }
    }

    fn held(carrier: &str, until: u64) -> HeldAgainst {
        HeldAgainst {
            carrier: carrier.into(),
            failures: 3,
            until,
        }
    }

    #[test]
    fn what_two_programs_have_learnt_is_kept_of_both() {
        let before = remembered("poll");
        let ours = Remembered {
            keepalive: None,
            held: vec![held("quic", 1_800_000_000), held("ws", 1_800_000_100)],
            ..before.clone()
        };
        let theirs = Remembered {
            best: "posts".into(),
            held: vec![held("quic", 1_800_007_000), held("h2", 1_800_000_060)],
            ..before.clone()
        };
        let both = Remembered {
            best: "posts".into(),
            keepalive: None,
            held: vec![held("quic", 1_800_007_000), held("ws", 1_800_000_100)],
            ..before.clone()
        };
        assert_eq!(ours.merged(&before, &theirs), both, "h2 has worked here");
        assert_eq!(ours.merged(&before, &before), ours);
        assert_eq!(before.merged(&before, &theirs), theirs);
    }

    #[test]
    fn what_failed_counts_for_a_while_only() {
        let now = 1_800_000_000;
        let known = Remembered {
            held: [now - 1, now, now + 1, now + 3600, now + 9000]
                .map(|until| held("ws", until))
                .into(),
            ..remembered("poll")
        };
        let left: Vec<_> = known.held_at(now).map(|(_, left)| left.as_secs()).collect();
        assert_eq!(left, [1, 3600], "over, or from a clock that went wrong");
    }

    #[test]
    fn a_line_of_an_older_version_is_read_and_unknown_words_are_passed_over() {
        let text = format!("{TITLE}\na ws 1000\nb ws - not=h2 new=1 odd hold=x alive=1500\n");
        let memory = Memory::from_text(&text);
        let plain = |body| Remembered {
            best: "ws".into(),
            largest_body: body,
            ..Remembered::default()
        };
        assert_eq!(memory.of("a"), Some(&plain(Some(1000))));
        let keepalive = Some(Duration::from_millis(1500));
        let expected = Remembered {
            keepalive,
            ..plain(None)
        };
        assert_eq!(memory.of("b"), Some(&expected));
    }

    #[test]
    fn what_was_learnt_is_read_again() {
        let mut memory = Memory::default();
        memory.learn("a", remembered("poll"));
        memory.learn("b", remembered("ws"));
        memory.learn("a", remembered("upgrade"));
        let again = Memory::from_text(&memory.to_text());
        assert_eq!(again, memory);
        assert_eq!(again.of("a").unwrap().best, "upgrade");
        assert_eq!(again.of("c"), None);
    }

    #[test]
    fn the_network_not_met_for_longest_is_forgotten() {
        let mut memory = Memory::default();
        for number in 0..MOST + 1 {
            memory.learn(&number.to_string(), remembered("poll"));
            memory.learn("0", remembered("poll"));
        }
        assert!(memory.of("0").is_some() && memory.of("1").is_none());
        assert!(memory.to_text().len() < 70_000);
    }

    #[test]
    fn a_damaged_line_costs_only_itself() {
        let text = format!("{TITLE}\nnothing\na poll x\nb ws -\n\u{0} \n c\nd no/name -\n");
        let memory = Memory::from_text(&text);
        assert_eq!(memory.networks.len(), 1);
        assert_eq!(memory.of("b").unwrap().best, "ws");
        assert_eq!(
            Memory::from_text("another file\nb ws -\n"),
            Memory::default()
        );
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in ".{0,400}", lines in prop::collection::vec(".{0,60}", 0..200)) {
            let _ = Memory::from_text(&text);
            let memory = Memory::from_text(&format!("{TITLE}\n{}", lines.join("\n")));
            prop_assert!(memory.networks.len() <= MOST);
            prop_assert_eq!(&Memory::from_text(&memory.to_text()), &memory);
        }

        #[test]
        fn any_network_has_a_key_without_spaces(
            relay in ".{0,900}", proxy in ".{0,900}", interface in ".{0,40}"
        ) {
            let network = Network {
                local: None,
                gateway: None,
                interface: Some(&interface),
                proxy: Some(&proxy),
                relay: &relay,
            };
            let key = network.key();
            let mut memory = Memory::default();
            memory.learn(&key, remembered("poll"));
            prop_assert!(key.len() <= LONGEST_KEY);
            prop_assert_eq!(Memory::from_text(&memory.to_text()), memory);
        }
    }
}

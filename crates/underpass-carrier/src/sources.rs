//! How much one source has open that has come to nothing yet: connections without a whole request, carriers without a
//! byte. A server bounds both altogether; without a bound for each source one of them could take all the room there is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts what is open by its source. Clones are the same count.
#[derive(Clone, Debug)]
pub(crate) struct Sources(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// For each source.
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// Something that counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    sources: Sources,
    of: Option<IpAddr>,
}

impl Sources {
    /// At most so much for each source.
    pub(crate) fn new(most: usize) -> Self {
        let open = Mutex::default();
        Self(Arc::new(Shared { most, open }))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, unless the source has too much open. Whoever comes from nowhere, as from within this process, may.
    pub(crate) fn begin(&self, source: Option<IpAddr>) -> Option<Counted> {
        let of = source.map(network);
        if let Some(of) = of {
            let mut open = self.open();
            let count = open.entry(of).or_default();
            if *count >= self.0.most {
                return None;
            }
            *count += 1;
        }
        let sources = self.clone();
        Some(Counted { sources, of })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(of) = self.of else {
            return;
        };
        let mut open = self.sources.open();
        if let Some(count) = open.get_mut(&of) {
            *count -= 1;
            if *count == 0 {
                open.remove(&of);
            }
        }
    }
}

/// Addresses that one machine may change among count as one: the 64 bits of an IPv6 network.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) >> 64 << 64;
            IpAddr::V6(network.into())
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_room_of_its_own() {
        let sources = Sources::new(2);
        let from = |text: &str| sources.begin(Some(text.parse().unwrap()));
        let first = from("192.0.2.1").unwrap();
        let _second = from("::ffff:192.0.2.1").unwrap();
        assert!(from("192.0.2.1").is_none());
        let _other = from("192.0.2.2").unwrap();
        drop(first);
        let _third = from("192.0.2.1").unwrap();
        let _six = from("2001:db8:1:2::1").unwrap();
        let _seven = from("2001:db8:1:2:ffff::9").unwrap();
        assert!(from("2001:db8:1:2::7").is_none(), "one network");
        assert!(sources.begin(None).is_some() && sources.begin(None).is_some());
        drop((_second, _other, _third, _six, _seven));
        assert!(sources.open().is_empty(), "nothing is kept of who has gone");
    }
}

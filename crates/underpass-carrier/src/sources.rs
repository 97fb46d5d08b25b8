//! How much one source has open that has come to nothing yet: connections without a whole request, carriers without a
//! byte. A server bounds both altogether; without a bound for each source one of them could take all the room there is.
//! Whoever takes carriers in counts handshakes in the same way.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a source has too much of, or is too slow with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceLimit {
    /// Connections on which no whole request has come.
    HalfOpen,
    /// Carriers on which no byte has come.
    HalfMade,
    /// Handshakes that are not finished.
    Handshakes,
    /// The head of the first request on a connection did not come in time.
    SlowHead,
    /// The body of a request did not come in time.
    SlowBody,
}

impl SourceLimit {
    /// The same in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::HalfOpen => "connections from one address without a whole request",
            Self::HalfMade => "carriers from one address without a first byte",
            Self::Handshakes => "handshakes from one address at a time",
            Self::SlowHead => "time for the head of a request",
            Self::SlowBody => "time for the body of a request",
        }
    }
}

/// Is told of sources that reach a limit. It must not block.
#[derive(Clone)]
pub struct Watcher(pub(crate) Arc<dyn Fn(SourceLimit, SocketAddr) + Send + Sync>);

impl Watcher {
    /// One that is told by a call of this.
    pub fn new(tell: impl Fn(SourceLimit, SocketAddr) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

/// Counts what is open by its source. Clones are the same count.
#[derive(Clone, Debug)]
pub struct Sources(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// For each source.
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// Something of a source that counts until it is dropped.
#[derive(Debug)]
pub struct OfSource {
    sources: Sources,
    of: Option<IpAddr>,
}

impl Sources {
    /// At most so much for each source.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let open = Mutex::default();
        Self(Arc::new(Shared { most, open }))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, unless the source has too much open. Whoever comes from nowhere, as from within this process, may.
    #[must_use]
    pub fn begin(&self, source: Option<IpAddr>) -> Option<OfSource> {
        let of = source.map(source_of);
        if let Some(of) = of {
            let mut open = self.open();
            let count = open.entry(of).or_default();
            if *count >= self.0.most {
                return None;
            }
            *count += 1;
        }
        let sources = self.clone();
        Some(OfSource { sources, of })
    }
}

impl Drop for OfSource {
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

/// The source that an address belongs to: addresses that one machine may change among count as one, which are those of the
/// 64 bits of an IPv6 network.
#[must_use]
pub fn source_of(address: IpAddr) -> IpAddr {
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

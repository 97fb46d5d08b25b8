//! Holds back what comes in on a link before it is known whose link it is.
//!
//! A link carries packets from the moment that its handshake is done; who its machine is the store
//! says a little later. What an agent sends in between must wait, in order, and within bounds.

use std::collections::VecDeque;

use bytes::Bytes;
use underpass_proto::route::RouteHeader;

use crate::refusal::Refusal;

/// Packets held back: an agent that attaches again opens each of its routes with one.
const MOST_PACKETS: usize = 4096;
/// Bytes held back.
const MOST_BYTES: usize = 1024 * 1024;

/// A gate, closed at first; it opens for good when nothing is left behind it.
#[derive(Debug)]
pub(crate) struct Gate {
    open: bool,
    held: VecDeque<(RouteHeader, Bytes)>,
    bytes: usize,
}

impl Gate {
    /// A closed gate.
    pub(crate) fn new() -> Self {
        Self {
            open: false,
            held: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Lets a packet through, or holds it back.
    ///
    /// # Errors
    /// It cannot be held back: there is too much already.
    pub(crate) fn pass(
        &mut self,
        header: RouteHeader,
        payload: Bytes,
    ) -> Result<Option<(RouteHeader, Bytes)>, Refusal> {
        if self.open {
            return Ok(Some((header, payload)));
        }
        if self.held.len() >= MOST_PACKETS || self.bytes + payload.len() > MOST_BYTES {
            return Err(Refusal::early());
        }
        self.bytes += payload.len();
        self.held.push_back((header, payload));
        Ok(None)
    }

    /// The next packet that was held back; when there is none the gate is open.
    pub(crate) fn next(&mut self) -> Option<(RouteHeader, Bytes)> {
        let next = self.held.pop_front();
        match &next {
            Some((_, payload)) => self.bytes -= payload.len(),
            None => self.open = true,
        }
        next
    }

    /// Lets go of everything.
    pub(crate) fn clear(&mut self) {
        self.held = VecDeque::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use underpass_proto::route::Data;

    use super::*;

    fn packet(route: u32, len: usize) -> (RouteHeader, Bytes) {
        (Data { route }.into(), Bytes::from(vec![0; len]))
    }

    #[test]
    fn order_is_kept_across_the_opening() {
        let mut gate = Gate::new();
        for route in 0..3 {
            let (header, payload) = packet(route, 1);
            assert_eq!(gate.pass(header, payload), Ok(None));
        }
        assert_eq!(gate.next(), Some(packet(0, 1)));
        let (header, payload) = packet(3, 1);
        assert_eq!(
            gate.pass(header, payload),
            Ok(None),
            "others are still before it"
        );
        for route in 1..4 {
            assert_eq!(gate.next(), Some(packet(route, 1)));
        }
        assert_eq!(gate.next(), None);
        let (header, payload) = packet(4, 1);
        assert_eq!(gate.pass(header, payload), Ok(Some(packet(4, 1))));
    }

    #[test]
    fn what_is_held_back_is_bounded() {
        for len in [0, 60_000] {
            let mut gate = Gate::new();
            let held = (0..10_000).take_while(|_| {
                let (header, payload) = packet(2, len);
                gate.pass(header, payload).is_ok()
            });
            let held = held.count();
            assert!(held <= MOST_PACKETS && held * len <= MOST_BYTES);
            assert!(held >= 16);
        }
    }
}

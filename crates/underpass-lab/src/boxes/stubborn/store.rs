//! What the box remembers of answers, for a box that caches what it should not.

use std::collections::VecDeque;

/// Answers that are kept.
const MOST: usize = 256;
/// The longest body that is kept, in bytes.
pub(super) const LONGEST: usize = 1 << 20;

/// Bodies of answers by URL, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Store {
    kept: VecDeque<(String, Kept)>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) media_type: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Store {
    pub(super) fn get(&self, url: &str) -> Option<&Kept> {
        let found = self.kept.iter().find(|(own, _)| own == url);
        found.map(|(_, kept)| kept)
    }

    pub(super) fn put(&mut self, url: &str, kept: Kept) {
        if kept.body.len() > LONGEST || self.get(url).is_some() {
            return;
        }
        if self.kept.len() == MOST {
            self.kept.pop_front();
        }
        self.kept.push_back((url.into(), kept));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_stays_until_there_is_no_room() {
        let mut store = Store::default();
        let kept = |body: &[u8]| Kept {
            media_type: None,
            body: body.to_vec(),
        };
        store.put("/a", kept(b"1"));
        store.put("/a", kept(b"2"));
        assert_eq!(store.get("/a"), Some(&kept(b"1")));
        (0..MOST).for_each(|n| store.put(&format!("/{n}"), kept(b"x")));
        assert_eq!(store.get("/a"), None);
        store.put("/long", kept(&vec![0; LONGEST + 1]));
        assert_eq!(store.get("/long"), None);
    }
}

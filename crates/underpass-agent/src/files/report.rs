//! What is told of sending, while it goes on and at the end.

use super::{Digest, Trouble};

/// What happens while files are sent.
#[derive(Debug)]
pub enum Sending {
    /// A file was read to its end.
    File {
        /// As it was offered.
        path: String,
        /// Its bytes.
        size: u64,
        /// Their SHA-256.
        digest: Digest,
    },
    /// A file could not be.
    Unsent {
        /// As it was offered.
        path: String,
        /// Why.
        trouble: Trouble,
    },
    /// A receiver does not take a file.
    Declined {
        /// Who.
        user: String,
        /// As it was offered.
        path: String,
        /// Why.
        trouble: Trouble,
    },
    /// The connection with a receiver broke; it is tried again.
    Again {
        /// Who.
        user: String,
        /// What happened.
        trouble: Trouble,
    },
    /// A receiver is done.
    Done(ReceiverEnd),
}

/// How it ended with one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverEnd {
    /// Who.
    pub user: String,
    /// How many files it has now, and the digest of all of them, or why it was given up.
    pub outcome: Result<(u64, Digest), Trouble>,
    /// Files and folders that it did not take.
    pub declined: Vec<(String, Trouble)>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// With each receiver, in the order in which they were named.
    pub receivers: Vec<ReceiverEnd>,
    /// Files that could not be read to their ends.
    pub unsent: Vec<(String, Trouble)>,
}

impl Report {
    /// Whether everybody has everything.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let whole = |it: &ReceiverEnd| it.outcome.is_ok() && it.declined.is_empty();
        self.unsent.is_empty() && self.receivers.iter().all(whole)
    }

    /// All reasons why something is missing somewhere.
    #[must_use]
    pub fn troubles(&self) -> Vec<&Trouble> {
        let of_receivers = self.receivers.iter().flat_map(|it| {
            let declined = it.declined.iter().map(|(_, trouble)| trouble);
            it.outcome.as_ref().err().into_iter().chain(declined)
        });
        let unsent = self.unsent.iter().map(|(_, trouble)| trouble);
        of_receivers.chain(unsent).collect()
    }
}

//! Record keys of both directions, one epoch after the other.
//!
//! A record that is sent again is the same ciphertext, so the receiver may still meet the epoch
//! before the current one. A sender moves on only when everything of the epoch before its current
//! one was acknowledged, so two epochs are always enough.

use underpass_seal::{Cipher, OpenError, OpeningKey, RecordSecret, SealingKey, Space, TAG_LEN};

/// Records sealed in one epoch before the sender moves on by itself: far below the 2^23 that
/// AES-GCM allows for records of 64 KiB (RFC 9001 §6.6).
pub(crate) const RECORDS_PER_EPOCH: u64 = 1 << 20;

/// Keys of what this side sends.
pub(crate) struct SendEpochs {
    secret: RecordSecret,
    key: SealingKey,
    cipher: Cipher,
    epoch: u64,
    /// First reliable record of the current epoch.
    first_number: u64,
    sealed: u64,
    wanted: u64,
    per_epoch: u64,
}

impl SendEpochs {
    pub(crate) fn new(secret: RecordSecret, cipher: Cipher, per_epoch: u64) -> Self {
        let key = secret.sealing_key(cipher);
        SendEpochs {
            secret,
            key,
            cipher,
            epoch: 0,
            first_number: 0,
            sealed: 0,
            wanted: 0,
            per_epoch,
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The present epoch and its secret.
    pub(crate) fn present(&self) -> (u64, RecordSecret) {
        (self.epoch, self.secret.clone())
    }

    /// Moves on at the next occasion.
    pub(crate) fn request_update(&mut self) {
        self.wanted = self.wanted.max(self.epoch + 1);
    }

    /// The peer moved on to this epoch and wants the same here.
    pub(crate) fn follow(&mut self, epoch: u64) {
        self.wanted = self.wanted.max(epoch.min(self.epoch + 1));
    }

    /// The epoch that the record now being built should announce as its successor.
    pub(crate) fn update_due(&self, acknowledged_floor: u64) -> Option<u64> {
        let wanted = self.wanted > self.epoch || self.sealed >= self.per_epoch;
        (wanted && acknowledged_floor >= self.first_number).then_some(self.epoch + 1)
    }

    /// Whether the keys must not be used any more. It takes a peer that acknowledges nothing for
    /// millions of records, so that no update could follow.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.sealed >= self.cipher.records_per_epoch()
    }

    /// From `first_number` on, reliable records are sealed in the next epoch.
    pub(crate) fn advance(&mut self, first_number: u64) {
        self.secret = self.secret.next_epoch();
        self.key = self.secret.sealing_key(self.cipher);
        self.epoch += 1;
        self.first_number = first_number;
        self.sealed = 0;
    }

    pub(crate) fn seal(
        &mut self,
        space: Space,
        number: u64,
        header: &[u8],
        in_out: &mut [u8],
    ) -> [u8; TAG_LEN] {
        self.sealed += 1;
        self.key.seal_in_place(space, number, header, in_out)
    }
}

/// Keys of what the peer sends.
pub(crate) struct ReceiveEpochs {
    secret: RecordSecret,
    cipher: Cipher,
    epoch: u64,
    current: OpeningKey,
    previous: Option<OpeningKey>,
}

/// Why a record was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// Of an epoch whose keys are gone: everything reliable in it had arrived.
    Old,
    /// Not sealed by the peer, or not with this number.
    Forged,
}

impl From<OpenError> for Unopened {
    fn from(_: OpenError) -> Self {
        Unopened::Forged
    }
}

impl ReceiveEpochs {
    pub(crate) fn new(secret: RecordSecret, cipher: Cipher) -> Self {
        Self::from_epoch(0, secret, cipher)
    }

    /// With the keys from this epoch on.
    pub(crate) fn from_epoch(epoch: u64, secret: RecordSecret, cipher: Cipher) -> Self {
        let current = secret.opening_key(cipher);
        ReceiveEpochs {
            secret,
            cipher,
            epoch,
            current,
            previous: None,
        }
    }

    /// The present epoch and its secret.
    pub(crate) fn present(&self) -> (u64, RecordSecret) {
        (self.epoch, self.secret.clone())
    }

    /// Opens `sealed` into `out`, moving on to the next epoch when the record proves it.
    pub(crate) fn open(
        &mut self,
        epoch: u64,
        space: Space,
        number: u64,
        header: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unopened> {
        if epoch == self.epoch {
            return Ok(self.current.open_into(space, number, header, sealed, out)?);
        }
        if epoch.checked_add(1) == Some(self.epoch) {
            let key = self.previous.as_ref().ok_or(Unopened::Old)?;
            return Ok(key.open_into(space, number, header, sealed, out)?);
        }
        if epoch < self.epoch {
            return Err(Unopened::Old);
        }
        if Some(epoch) != self.epoch.checked_add(1) {
            return Err(Unopened::Forged);
        }
        let secret = self.secret.next_epoch();
        let key = secret.opening_key(self.cipher);
        key.open_into(space, number, header, sealed, out)?;
        self.advance(secret, key);
        Ok(())
    }

    /// KEY_UPDATE arrived: the peer may move on once more as soon as it knows that, whether or not
    /// anything of its new epoch arrives.
    pub(crate) fn announced(&mut self, epoch: u64) {
        if self.epoch.checked_add(1) == Some(epoch) {
            let secret = self.secret.next_epoch();
            let key = secret.opening_key(self.cipher);
            self.advance(secret, key);
        }
    }

    fn advance(&mut self, secret: RecordSecret, key: OpeningKey) {
        self.secret = secret;
        self.previous = Some(std::mem::replace(&mut self.current, key));
        self.epoch += 1;
    }
}

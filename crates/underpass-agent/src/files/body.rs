//! The sealed part of a transfer: messages in, pieces of a file in the `age` format out, and the other way round. Pure.

use bytes::{Buf as _, Bytes, BytesMut};
use underpass_proto::Role;
use underpass_proto::transfer::{Transfer, TransferDecoder};
use underpass_seal::age::{self, AgeError, Opener, PIECE, SEALED_PIECE, Sealer};
use underpass_seal::{PublicKey, StaticKey};

use super::FilesError;

/// Seals messages, once for all receivers.
#[derive(Debug)]
pub(super) struct BodySealer {
    sealer: Sealer,
    plain: BytesMut,
}

impl BodySealer {
    /// For these receivers; what begins the file.
    ///
    /// # Errors
    /// One of the keys cannot be used.
    pub(super) fn start(receivers: &[PublicKey]) -> Result<(Bytes, Self), AgeError> {
        let (header, sealer) = age::seal_for(receivers)?;
        let plain = BytesMut::new();
        Ok((header.into(), Self { sealer, plain }))
    }

    pub(super) fn put(&mut self, message: &Transfer) {
        message.put_framed(&mut self.plain);
    }

    /// The next sealed piece, once there is enough for one. One is kept back, since the last one is sealed in another way.
    pub(super) fn piece(&mut self) -> Option<Bytes> {
        (self.plain.len() > PIECE).then(|| self.seal(PIECE, false))
    }

    /// The last piece; [`BodySealer::piece`] has given all others.
    pub(super) fn end(mut self) -> Bytes {
        self.seal(self.plain.len(), true)
    }

    fn seal(&mut self, length: usize, last: bool) -> Bytes {
        let mut piece = Vec::with_capacity(SEALED_PIECE);
        piece.extend_from_slice(&self.plain.split_to(length));
        self.sealer.seal(&mut piece, last);
        piece.into()
    }
}

/// Opens what [`BodySealer`] sealed.
pub(super) struct BodyOpener<'a> {
    identity: &'a StaticKey,
    opener: Option<Opener>,
    sealed: BytesMut,
    messages: TransferDecoder,
}

impl<'a> BodyOpener<'a> {
    pub(super) fn new(identity: &'a StaticKey) -> Self {
        Self {
            identity,
            opener: None,
            sealed: BytesMut::new(),
            messages: TransferDecoder::new(Role::Initiator),
        }
    }

    /// Takes what has arrived.
    ///
    /// # Errors
    /// It is not what was sealed, or not for us.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), AgeError> {
        self.sealed.extend_from_slice(bytes);
        if self.opener.is_none() {
            let Some((length, opener)) = Opener::start(&self.sealed, self.identity)? else {
                return Ok(());
            };
            self.sealed.advance(length);
            self.opener = Some(opener);
        }
        // Which piece is the last one shows only at the end.
        while self.sealed.len() > SEALED_PIECE {
            self.open(SEALED_PIECE, false)?;
        }
        Ok(())
    }

    /// All bytes have arrived.
    ///
    /// # Errors
    /// They are not all that were sealed.
    pub(super) fn end(&mut self) -> Result<(), AgeError> {
        self.open(self.sealed.len(), true)
    }

    /// The next message, if all of it is there.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn message(&mut self) -> Result<Option<Transfer>, FilesError> {
        Ok(self.messages.next()?)
    }

    fn open(&mut self, length: usize, last: bool) -> Result<(), AgeError> {
        let opener = self.opener.as_mut().ok_or(AgeError::Format)?;
        let mut piece = self.sealed.split_to(length).to_vec();
        opener.open(&mut piece, last)?;
        self.messages.push(&piece);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use underpass_proto::transfer::{Data, Hole, Start};

    #[test]
    fn what_was_sealed_once_is_opened_by_each_however_it_comes() {
        let keys = [(); 3].map(|()| StaticKey::generate());
        let said: Vec<Transfer> = (0..40_u64)
            .flat_map(|entry| -> [Transfer; 3] {
                let bytes = vec![entry as u8; entry as usize * 1500].into();
                let length = entry * 1_000_000;
                [
                    Start { entry, offset: 0 }.into(),
                    Data { bytes }.into(),
                    Hole { length }.into(),
                ]
            })
            .collect();
        let public: Vec<_> = keys.iter().map(StaticKey::public).collect();
        let (mut file, mut sealer) = BodySealer::start(&public)
            .map(|(header, sealer)| (header.to_vec(), sealer))
            .unwrap();
        for message in &said {
            sealer.put(message);
            while let Some(piece) = sealer.piece() {
                file.extend_from_slice(&piece);
            }
        }
        file.extend_from_slice(&sealer.end());
        for (key, chunk) in keys.iter().zip([1, 70_000, usize::MAX]) {
            let mut opener = BodyOpener::new(key);
            let mut heard = Vec::new();
            for part in file.chunks(chunk.min(file.len())) {
                opener.push(part).unwrap();
                while let Some(message) = opener.message().unwrap() {
                    heard.push(message);
                }
            }
            opener.end().unwrap();
            while let Some(message) = opener.message().unwrap() {
                heard.push(message);
            }
            assert!(heard == said, "{} of {}", heard.len(), said.len());
        }
        let mut cut = BodyOpener::new(&keys[0]);
        cut.push(&file[..file.len() - 1]).unwrap();
        assert_eq!(cut.end(), Err(AgeError::Changed));
        assert_eq!(BodyOpener::new(&keys[0]).end(), Err(AgeError::Format));
    }
}

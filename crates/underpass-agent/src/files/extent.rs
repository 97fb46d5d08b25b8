//! Reading files without their holes, and the digest of what is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use underpass_proto::transfer::MAX_DATA;
use underpass_seal::Sha256;

/// What comes next in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// So many bytes, at the beginning of the buffer.
    Data(usize),
    /// Zeros that take no place.
    Hole(u64),
}

/// Reads a file from some offset to another one.
#[derive(Debug)]
pub(super) struct Extents<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    /// No hole before this.
    data_until: u64,
}

impl<'a> Extents<'a> {
    pub(super) fn new(file: &'a File, at: u64, end: u64) -> Self {
        Self {
            file,
            at,
            end,
            data_until: at,
        }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter (`UnexpectedEof`).
    pub(super) fn next(&mut self, buffer: &mut [u8; MAX_DATA]) -> io::Result<Option<Extent>> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.at >= self.data_until {
            let data = self.next_data()?;
            if data > self.at {
                let length = data - self.at;
                self.at = data;
                return Ok(Some(Extent::Hole(length)));
            }
        }
        let most = (self.data_until - self.at).min(MAX_DATA as u64);
        let most = usize::try_from(most).unwrap_or(MAX_DATA);
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(Some(Extent::Data(read)))
    }

    /// Where the next data begin, at the end at the latest. Beyond a file's end there is nothing, which is no hole.
    fn next_data(&mut self) -> io::Result<u64> {
        self.data_until = self.end;
        let data = match seek(self.file, SeekFrom::Data(self.at)) {
            Ok(data) => data.min(self.end),
            Err(Errno::NXIO) if self.file.metadata()?.len() >= self.end => self.end,
            Err(Errno::NXIO) => return Err(io::ErrorKind::UnexpectedEof.into()),
            // A file system without holes.
            Err(_) => return Ok(self.at),
        };
        if let Ok(hole) = seek(self.file, SeekFrom::Hole(data)) {
            self.data_until = hole.clamp(data, self.end);
        }
        Ok(data)
    }
}

/// The digest of a file's first `length` bytes, of which it may go on.
///
/// # Errors
/// The file cannot be read, or is shorter.
pub(super) fn digest_of(file: &File, length: u64) -> io::Result<Sha256> {
    let mut digest = Sha256::default();
    let mut buffer = Box::new([0; MAX_DATA]);
    let mut extents = Extents::new(file, 0, length);
    while let Some(extent) = extents.next(&mut buffer)? {
        match extent {
            Extent::Data(read) => digest.update(&buffer[..read]),
            Extent::Hole(length) => add_zeros(&mut digest, length),
        }
    }
    Ok(digest)
}

/// Adds zeros to a digest.
pub(super) fn add_zeros(digest: &mut Sha256, mut length: u64) {
    static ZEROS: [u8; MAX_DATA] = [0; MAX_DATA];
    while length > 0 {
        let part = usize::try_from(length).unwrap_or(MAX_DATA).min(MAX_DATA);
        digest.update(&ZEROS[..part]);
        length -= part as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use underpass_seal::sha256;

    fn read(file: &File, at: u64, end: u64) -> io::Result<(Vec<u8>, u64)> {
        let (mut all, mut holes) = (Vec::new(), 0);
        let mut buffer = Box::new([0; MAX_DATA]);
        let mut extents = Extents::new(file, at, end);
        while let Some(extent) = extents.next(&mut buffer)? {
            match extent {
                Extent::Data(read) => all.extend_from_slice(&buffer[..read]),
                Extent::Hole(length) => {
                    holes += length;
                    all.resize(all.len() + length as usize, 0);
                }
            }
        }
        Ok((all, holes))
    }

    #[test]
    fn holes_are_found_and_what_is_read_is_the_file() {
        let file = tempfile::tempfile().unwrap();
        let (mib, size) = (1 << 20, (5 << 20) + 17);
        file.set_len(size).unwrap();
        file.write_all_at(&[1; 100], mib).unwrap();
        file.write_all_at(&[2; 200_000], 3 * mib + 5).unwrap();
        let mut expected = vec![0; size as usize];
        expected[1 << 20..][..100].fill(1);
        expected[(3 << 20) + 5..][..200_000].fill(2);
        let (all, holes) = read(&file, 0, size).unwrap();
        assert!(all == expected);
        let allocated = file.metadata().unwrap().blocks() * 512;
        assert_eq!(
            holes > mib,
            allocated < size,
            "{holes} bytes of holes, {allocated} allocated"
        );
        let (part, _) = read(&file, mib + 50, 3 * mib + 6).unwrap();
        assert!(part == expected[(1 << 20) + 50..(3 << 20) + 6]);
        for length in [0, 1, mib, mib + 3, size] {
            let digest = digest_of(&file, length).unwrap().digest();
            assert_eq!(digest, sha256(&[&expected[..length as usize]]), "{length}");
        }
        for end in [size + 1, size + mib] {
            let error = read(&file, 0, end).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end}");
        }
    }
}

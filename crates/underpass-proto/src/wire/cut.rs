//! How a stream is cut into messages with a length before each.

use bytes::{Buf as _, Bytes, BytesMut};

use super::DecodeError;
use crate::varint;

/// Takes a varint and as many bytes as it says off the front of `buf`, or nothing until all are there.
///
/// # Errors
/// The length says more than `limit`; that is known before any of the bytes are there.
pub(crate) fn cut_message(
    buf: &mut BytesMut,
    limit: usize,
    what: &'static str,
) -> Result<Option<Bytes>, DecodeError> {
    let Ok((length, header)) = varint::get_slice(buf) else {
        return Ok(None);
    };
    let length = match usize::try_from(length) {
        Ok(length) if length <= limit => length,
        _ => return Err(DecodeError::TooLong { what, limit }),
    };
    if buf.len() - header < length {
        return Ok(None);
    }
    buf.advance(header);
    Ok(Some(buf.split_to(length).freeze()))
}

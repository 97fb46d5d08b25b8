//! What counts as text for a box that lets nothing else pass.

use super::head::Fields;

/// Whether the media type is one of text. A body without a media type is judged by its bytes alone.
pub(super) fn is_text_type(fields: &Fields) -> bool {
    let Some(value) = fields.get("content-type") else {
        return true;
    };
    let kind = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let known = [
        "application/json",
        "application/javascript",
        "application/xml",
        "application/x-www-form-urlencoded",
    ];
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
        || known.contains(&&*kind)
}

/// Looks at a body as it passes: UTF-8 without control characters is text.
#[derive(Debug, Default)]
pub(super) struct TextCheck {
    /// The beginning of a character whose end has not come.
    begun: Vec<u8>,
}

impl TextCheck {
    /// Whether the body is text so far.
    pub(super) fn passes(&mut self, bytes: &[u8]) -> bool {
        let control = |byte: &u8| matches!(byte, 0..=8 | 11 | 14..=31 | 127);
        if bytes.iter().any(control) {
            return false;
        }
        if self.begun.is_empty() && bytes.is_ascii() {
            return true;
        }
        self.begun.extend_from_slice(bytes);
        match std::str::from_utf8(&self.begun) {
            Ok(_) => self.begun.clear(),
            Err(error) if error.error_len().is_some() => return false,
            Err(error) => drop(self.begun.drain(..error.valid_up_to())),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_utf8_without_control_characters() {
        let text = "<html>\r\n\té und \u{1F600}</html>".as_bytes();
        for piece in 1..text.len() {
            let mut check = TextCheck::default();
            assert!(
                text.chunks(piece).all(|part| check.passes(part)),
                "in pieces of {piece}"
            );
        }
        for binary in [&b"\0"[..], b"a\x1bb", b"\xff", b"\xc3(", b"\x7f"] {
            assert!(!TextCheck::default().passes(binary), "{binary:?}");
        }
    }

    #[test]
    fn media_types_of_text_are_known() {
        let of = |value: &str| is_text_type(&Fields(vec![("Content-Type".into(), value.into())]));
        assert!(of("text/plain; charset=utf-8") && of("Application/JSON") && of("image/svg+xml"));
        assert!(!of("application/octet-stream") && !of("binary/tcp") && !of("application/grpc"));
        assert!(is_text_type(&Fields::default()));
    }
}

//! Everything that is logged, at every level, by every crate.

use std::io::Write;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md4::{Digest as _, Md4};

/// What was logged so far.
#[derive(Clone, Default)]
pub(crate) struct Log {
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Log {
    /// Logs everything in this thread, where all tasks of a test run.
    pub(crate) fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        // For threads that block on behalf of a task, too; no other test of this program logs.
        tracing::subscriber::set_global_default(subscriber).expect("the only one");
        log
    }

    pub(crate) fn note(&self, text: &str) {
        let mut bytes = self.bytes.lock().expect("not poisoned");
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'\n');
    }

    pub(crate) fn text(&self) -> String {
        let bytes = self.bytes.lock().expect("not poisoned");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let mut bytes = self.bytes.lock().expect("not poisoned");
        bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The forms in which passwords could leak: as they are, as Basic sends them, as NTLM and Digest hash
/// them, as bytes printed one by one.
pub(crate) fn forms(user: &str, passwords: &[&str]) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    for password in passwords {
        let pair = format!("{user}:{password}");
        let wide: Vec<u8> = password.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let list = format!("{:?}", password.as_bytes());
        let secret = md5::Md5::digest(format!("{user}:lab:{password}").as_bytes());
        all.extend([
            ("the text", (*password).to_owned()),
            (
                "the base64",
                STANDARD.encode(&pair)[4..].trim_end_matches('=').to_owned(),
            ),
            (
                "the base64",
                STANDARD.encode(password).trim_end_matches('=').to_owned(),
            ),
            ("the NT hash", hex(&Md4::digest(&wide))),
            ("Digest's secret", hex(&secret)),
            ("the bytes", list.trim_matches(['[', ']']).to_owned()),
        ]);
    }
    all.push(("a header", "Basic YW5u".to_owned()));
    all.push(("a header", "NTLM TlRM".to_owned()));
    all.push(("a header", "response=\"".to_owned()));
    all
}

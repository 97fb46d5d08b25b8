//! Negotiate (RFC 4559): the Kerberos ticket of whoever runs the program proves who asks.
//!
//! The system's own library speaks Kerberos. It is opened at run time, so that the program starts
//! where there is none; without library or ticket the next scheme is tried.

#[cfg(all(unix, not(target_vendor = "apple")))]
#[allow(unsafe_code, reason = "the system's GSSAPI is a C library")]
mod gssapi;
#[cfg(not(all(unix, not(target_vendor = "apple"))))]
mod gssapi {
    //! No library is known on this system.

    #[derive(Debug)]
    pub(super) struct Context;

    impl Context {
        pub(super) fn new(_host: &str) -> Result<Self, String> {
            Err("there is no GSSAPI library that can be used on this system".to_owned())
        }

        pub(super) fn step(&mut self, _answer: &[u8]) -> Result<Vec<u8>, String> {
            Err("there is no context".to_owned())
        }
    }
}

use zeroize::Zeroizing;

/// One exchange under way.
#[derive(Debug)]
pub(super) struct Negotiate {
    context: gssapi::Context,
}

type Step = Result<(Negotiate, Zeroizing<Vec<u8>>), String>;

impl Negotiate {
    /// The first token for the proxy on `host`. May ask the Kerberos server, on a thread that may
    /// block.
    pub(super) async fn begin(host: String) -> Step {
        on_thread(move || {
            let mut context = gssapi::Context::new(&host)?;
            let token = context.step(&[])?;
            Ok((Self { context }, Zeroizing::new(token)))
        })
        .await
    }

    /// The next token, in answer to the proxy's.
    pub(super) async fn step(mut self, answer: Vec<u8>) -> Step {
        on_thread(move || {
            let token = self.context.step(&answer)?;
            Ok((self, Zeroizing::new(token)))
        })
        .await
    }
}

async fn on_thread(work: impl FnOnce() -> Step + Send + 'static) -> Step {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err("the program is ending".to_owned()))
}

//! The dates in certificates, and clocks that are off.

use std::time::Duration;

use rustls::CertificateError as Wrong;
use rustls::pki_types::UnixTime;

/// By how much this machine's clock may be off before a certificate is refused for its dates: by the day that
/// clocks jump by, and the hour that they were off before. To refuse would cut off sessions that live; and the
/// relay proves itself inside anyway.
const CLOCK_OFF: Duration = Duration::from_secs(25 * 3600);

/// What `verify` says at `now`; where nothing but the dates of a certificate is in the way, what it says when this
/// clock is put right by [`CLOCK_OFF`].
pub(crate) fn at_a_clock_that_may_be_off<T>(
    now: UnixTime,
    verify: impl Fn(UnixTime) -> Result<T, rustls::Error>,
) -> Result<T, rustls::Error> {
    let wrong = match verify(now) {
        Err(rustls::Error::InvalidCertificate(wrong)) => wrong,
        other => return other,
    };
    let shown = Duration::from_secs(now.as_secs());
    let right = match &wrong {
        Wrong::Expired | Wrong::ExpiredContext { .. } => shown.saturating_sub(CLOCK_OFF),
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => shown.saturating_add(CLOCK_OFF),
        _ => return Err(wrong.into()),
    };
    verify(UnixTime::since_unix_epoch(right)).map_err(|_| wrong.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{CertificateDer, ServerName};

    use super::*;
    use crate::tls::provider;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    /// 2030-01-01 and 2030-04-01, in seconds since 1970.
    const FROM: i64 = 1_893_456_000;
    const UNTIL: i64 = FROM + 90 * DAY;

    /// What checks certificates of an issuer, and one of `relay.example` that it has signed.
    fn signed() -> (Arc<WebPkiServerVerifier>, CertificateDer<'static>) {
        let key = || rcgen::KeyPair::generate().expect("a key");
        let parameters = |names| rcgen::CertificateParams::new(names).expect("valid");
        let (mut issuer, issuing) = (parameters(Vec::new()), key());
        issuer.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = issuer.self_signed(&issuing).expect("signed");
        let issuer = rcgen::Issuer::new(issuer, issuing);
        let mut leaf = parameters(vec!["relay.example".to_owned()]);
        leaf.not_before = rcgen::date_time_ymd(2030, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2030, 4, 1);
        let leaf = leaf.signed_by(&key(), &issuer).expect("signed");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.der().clone()).expect("a root");
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        (verifier.build().expect("a verifier"), leaf.der().clone())
    }

    #[test]
    fn a_clock_that_is_a_day_off_keeps_nobody_out() {
        let (verifier, leaf) = signed();
        let verified = |name: &'static str, now: i64| {
            let name = ServerName::try_from(name).expect("a name");
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
            at_a_clock_that_may_be_off(now, |now| {
                verifier.verify_server_cert(&leaf, &[], &name, &[], now)
            })
        };
        for good in [FROM - DAY, FROM, FROM + 45 * DAY, UNTIL, UNTIL + DAY] {
            assert!(verified("relay.example", good).is_ok(), "{good}");
            assert!(verified("other.example", good).is_err(), "another name");
        }
        let wrong = |now| match verified("relay.example", now) {
            Err(rustls::Error::InvalidCertificate(wrong)) => wrong,
            other => panic!("{other:?}"),
        };
        let early = wrong(FROM - DAY - 2 * HOUR);
        assert!(matches!(
            early,
            Wrong::NotValidYet | Wrong::NotValidYetContext { .. }
        ));
        let late = wrong(UNTIL + DAY + 2 * HOUR);
        assert!(matches!(
            late,
            Wrong::Expired | Wrong::ExpiredContext { .. }
        ));
    }
}

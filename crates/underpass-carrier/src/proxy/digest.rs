//! Digest authentication (RFC 7616): MD5 and SHA-256, their `-sess` forms, `qop=auth`. Pure.

use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

use super::challenge::Challenge;
use super::credentials::Credentials;
use crate::tls::sha256;

/// A hash that the scheme knows; the stronger is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    Md5,
    Sha256,
}

impl Hash {
    /// Lower-case hexadecimal digits over parts with colons between them.
    fn over(self, parts: &[&str]) -> Zeroizing<String> {
        let text = Zeroizing::new(parts.join(":"));
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Zeroizing::new(match self {
            Self::Md5 => hex(&Md5::digest(text.as_bytes())),
            Self::Sha256 => hex(&sha256(text.as_bytes())),
        })
    }
}

/// One challenge of this scheme that can be answered, and how often it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DigestChallenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// As the proxy wrote it, where it did.
    algorithm: Option<String>,
    hash: Hash,
    session: bool,
    /// Whether `qop=auth` is offered; without it the answer is that of RFC 2069.
    qop: bool,
    hash_user: bool,
    /// The proxy says that only the nonce was too old.
    pub stale: bool,
    count: u32,
}

impl DigestChallenge {
    /// The strongest of the challenges that can be answered.
    #[must_use]
    pub(crate) fn strongest(challenges: &[Challenge]) -> Option<Self> {
        let digests = challenges.iter().filter(|it| it.scheme == "digest");
        // The first among equals, as the proxy prefers it.
        digests
            .filter_map(Self::read)
            .rev()
            .max_by_key(|it| it.hash)
    }

    fn read(challenge: &Challenge) -> Option<Self> {
        let own = |name| challenge.parameter(name).map(str::to_owned);
        let is_true = |name| {
            let value = challenge.parameter(name);
            value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
        };
        let algorithm = own("algorithm");
        let upper = algorithm.as_deref().unwrap_or("MD5").to_ascii_uppercase();
        let (name, session) = match upper.strip_suffix("-SESS") {
            Some(name) => (name, true),
            None => (upper.as_str(), false),
        };
        let hash = match name {
            "MD5" => Hash::Md5,
            "SHA-256" => Hash::Sha256,
            _ => return None,
        };
        let qop = match challenge.parameter("qop") {
            None => false,
            // auth-int alone cannot be done: it would need the whole body first.
            Some(list) => match list.split(',').any(|it| it.trim() == "auth") {
                true => true,
                false => return None,
            },
        };
        Some(Self {
            realm: own("realm")?,
            nonce: own("nonce")?,
            opaque: own("opaque"),
            algorithm,
            hash,
            session,
            qop,
            hash_user: is_true("userhash"),
            stale: is_true("stale"),
            count: 0,
        })
    }

    /// The value of `Proxy-Authorization` for one more request. `random` becomes the client's nonce;
    /// it is to be new each time.
    #[must_use]
    pub(crate) fn answer(
        &mut self,
        credentials: &Credentials,
        method: &str,
        uri: &str,
        random: u128,
    ) -> Zeroizing<String> {
        self.answer_with(credentials, method, uri, &format!("{random:032x}"))
    }

    fn answer_with(
        &mut self,
        credentials: &Credentials,
        method: &str,
        uri: &str,
        cnonce: &str,
    ) -> Zeroizing<String> {
        self.count += 1;
        let count = format!("{:08x}", self.count);
        let Self { realm, nonce, .. } = &*self;
        let (user, hash) = (credentials.user(), self.hash);
        let mut secret = hash.over(&[user, realm, credentials.password()]);
        if self.session {
            secret = hash.over(&[&secret, nonce, cnonce]);
        }
        let request = hash.over(&[method, uri]);
        let response = match self.qop {
            true => hash.over(&[&secret, nonce, &count, cnonce, "auth", &request]),
            false => hash.over(&[&secret, nonce, &request]),
        };
        let name = match self.hash_user {
            true => hash.over(&[user, realm]),
            false => Zeroizing::new(quoted(user)),
        };
        let mut out = Zeroizing::new(format!(
            "Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{}\", response=\"{}\"",
            *name,
            quoted(realm),
            quoted(nonce),
            quoted(uri),
            *response
        ));
        if let Some(algorithm) = &self.algorithm {
            *out += &format!(", algorithm={algorithm}");
        }
        if let Some(opaque) = &self.opaque {
            *out += &format!(", opaque=\"{}\"", quoted(opaque));
        }
        if self.qop {
            *out += &format!(", qop=auth, nc={count}, cnonce=\"{cnonce}\"");
        } else if self.session {
            *out += &format!(", cnonce=\"{cnonce}\"");
        }
        if self.hash_user {
            *out += ", userhash=true";
        }
        out
    }

    /// The same challenge but for how often it was answered.
    #[must_use]
    pub(crate) fn same_nonce(&self, other: &Self) -> bool {
        self.nonce == other.nonce
    }
}

/// With quotes and backslashes escaped, and without what would end the header.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !c.is_control()) {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::challenge::parse_challenges;

    fn strongest(headers: &[&str]) -> Option<DigestChallenge> {
        let all: Vec<_> = headers.iter().flat_map(|it| parse_challenges(it)).collect();
        DigestChallenge::strongest(&all)
    }

    fn response(answer: &str) -> &str {
        let (_, rest) = answer.split_once("response=\"").expect("there");
        rest.split('"').next().expect("ends")
    }

    const NONCE: &str = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
    const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

    /// RFC 7616 section 3.9.1.
    #[test]
    fn the_example_of_the_standard() {
        let header = |algorithm: &str| {
            format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", \
                 algorithm={algorithm}, nonce=\"{NONCE}\", \
                 opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            )
        };
        let who = Credentials::new("Mufasa", "Circle of Life");
        for (algorithm, wanted) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            (
                "SHA-256",
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
        ] {
            let mut challenge = strongest(&[&header(algorithm)]).expect("known");
            let answer = challenge.answer_with(&who, "GET", "/dir/index.html", CNONCE);
            assert_eq!(response(&answer), wanted, "{algorithm}");
            assert!(answer.contains("nc=00000001, ") && answer.contains("opaque=\"FQhe"));
            let answer = challenge.answer_with(&who, "GET", "/dir/index.html", CNONCE);
            assert!(answer.contains("nc=00000002, "), "each answer counts");
            assert_ne!(response(&answer), wanted);
        }
        let both = [header("MD5"), header("SHA-256")];
        let found = strongest(&[&both[0], &both[1]]).expect("known");
        assert_eq!(found.hash, Hash::Sha256);
    }

    /// RFC 7616 section 3.9.2 has the user's name hashed, with SHA-512-256; the hash of the name is
    /// checked here with SHA-256.
    #[test]
    fn a_hashed_user_is_not_named() {
        let header =
            format!("Digest realm=\"r\", nonce=\"{NONCE}\", algorithm=SHA-256, userhash=true");
        let mut challenge = strongest(&[&header]).expect("known");
        let answer = challenge.answer_with(&Credentials::new("anna", "x"), "GET", "/", CNONCE);
        assert!(
            !answer.contains("anna") && answer.contains("userhash=true"),
            "{}",
            *answer
        );
        assert!(answer.contains(&*Hash::Sha256.over(&["anna", "r"])));
    }

    /// RFC 2617 section 3.5, and its answer without qop after RFC 2069.
    #[test]
    fn older_forms() {
        let base =
            "Digest realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"";
        let who = Credentials::new("Mufasa", "Circle Of Life");
        let mut with_qop = strongest(&[&format!("{base}, qop=\"auth\"")]).expect("known");
        let answer = with_qop.answer_with(&who, "GET", "/dir/index.html", "0a4f113b");
        assert_eq!(response(&answer), "6629fae49393a05397450978507c4ef1");
        let mut without = strongest(&[base]).expect("known");
        let answer = without.answer_with(&who, "GET", "/dir/index.html", "0a4f113b");
        assert_eq!(response(&answer), "670fd8c2df070c60b045671b8b24ff02");
        assert!(!answer.contains("qop"));
    }

    #[test]
    fn what_cannot_be_answered_is_left_out() {
        for header in [
            "Digest realm=r, nonce=n, algorithm=SHA-512-256",
            "Digest realm=r, nonce=n, qop=auth-int",
            "Digest nonce=n",
            "Digest realm=r",
            "Basic realm=r",
        ] {
            assert_eq!(strongest(&[header]), None, "{header}");
        }
        assert!(
            strongest(&["Digest realm=r, nonce=n, stale=True"])
                .expect("known")
                .stale
        );
    }

    #[test]
    fn nothing_breaks_out_of_its_quotes() {
        let mut challenge =
            strongest(&["Digest realm=\"a\\\"b\", nonce=n, qop=auth"]).expect("known");
        let who = Credentials::new("an\"na\r\nX: y", "x");
        let answer = challenge.answer(&who, "GET", "/", 7);
        assert!(answer.contains("username=\"an\\\"naX: y\""), "{}", *answer);
        assert!(answer.contains("realm=\"a\\\"b\""));
    }
}

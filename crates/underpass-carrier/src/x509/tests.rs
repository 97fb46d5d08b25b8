use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm,
};
use tempfile::TempDir;

use super::*;
use crate::tls::IdentityError;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

fn authority_named(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::new()).expect("valid");
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

/// An authority, and another one between it and machines.
struct Ground {
    dir: TempDir,
    root: Issuer<'static, KeyPair>,
    between: Issuer<'static, KeyPair>,
    between_pem: String,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let key = || KeyPair::generate().expect("a key");
        let (parameters, own) = (authority_named("root"), key());
        let root = parameters.self_signed(&own).expect("signed");
        std::fs::write(dir.path().join("root.pem"), root.pem()).expect("written");
        let root = Issuer::new(parameters, own);
        let (mut parameters, own) = (authority_named("between"), key());
        parameters.serial_number = Some(SerialNumber::from(1000));
        let between_pem = parameters.signed_by(&own, &root).expect("signed").pem();
        let between = Issuer::new(parameters, own);
        Self {
            dir,
            root,
            between,
            between_pem,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A client's certificate by the authority between, after a change, with the chain.
    fn client(
        &self,
        kind: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> OwnCertificate {
        let mut parameters = CertificateParams::new(Vec::new()).expect("valid");
        let name = &mut parameters.distinguished_name;
        *name = rcgen::DistinguishedName::new();
        name.push(DnType::CommonName, "bob");
        parameters.serial_number = Some(SerialNumber::from(7));
        parameters.not_before = (SystemTime::now() - DAY).into();
        parameters.not_after = (SystemTime::now() + DAY).into();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut parameters);
        let key = KeyPair::generate_for(kind).expect("a key");
        let certificate = parameters.signed_by(&key, &self.between).expect("signed");
        let chain = certificate.pem() + &self.between_pem;
        std::fs::write(self.path("chain.pem"), chain).expect("written");
        std::fs::write(self.path("key.pem"), key.serialize_pem()).expect("written");
        let own = OwnCertificate::from_pem_files(&self.path("chain.pem"), &self.path("key.pem"));
        own.expect("usable")
    }

    fn of_ecdsa(&self, change: impl FnOnce(&mut CertificateParams)) -> Chain {
        let own = self.client(&rcgen::PKCS_ECDSA_P256_SHA256, change);
        own.chain().clone()
    }

    fn list(&self, by: &Issuer<'static, KeyPair>, revoked: &[u64], until: SystemTime) -> String {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: (SystemTime::now() - DAY).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let parameters = CertificateRevocationListParams {
            this_update: (SystemTime::now() - DAY).into(),
            next_update: until.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = parameters.signed_by(by).expect("signed");
        list.pem().expect("written")
    }

    fn authorities(&self, lists: Option<&[String]>) -> Authorities {
        let path = self.path("lists.pem");
        if let Some(lists) = lists {
            std::fs::write(&path, lists.concat()).expect("written");
        }
        let lists = lists.map(|_| path.as_path());
        Authorities::from_pem_files(&self.path("root.pem"), lists).expect("usable")
    }
}

#[test]
fn every_kind_of_key_proves_itself_and_nothing_else() {
    let ground = Ground::new();
    let authorities = ground.authorities(None);
    let mut others: Vec<(u16, Vec<u8>)> = Vec::new();
    for kind in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let own = ground.client(kind, |_| ());
        let chain = Chain::from_der(&own.chain().to_der()).expect("as it was written");
        assert_eq!(&chain, own.chain());
        authorities.check(&chain, now()).expect("vouched for");
        let (scheme, signature) = own.sign(b"this").expect("signed");
        assert_eq!(chain.has_signed(scheme, b"this", &signature), Ok(()));
        let proof = Err(CertificateFault::Proof);
        assert_eq!(chain.has_signed(scheme, b"that", &signature), proof);
        assert_eq!(chain.has_signed(scheme, b"this", &[]), proof);
        // PKCS #1 with SHA-1 and SHA-256, which TLS 1.3 has not for this either.
        for scheme in [0x0201, 0x0401, 0] {
            assert_eq!(chain.has_signed(scheme, b"this", &signature), proof);
        }
        for (scheme, signature) in &others {
            assert_eq!(chain.has_signed(*scheme, b"this", signature), proof);
        }
        others.push((scheme, signature));
    }
}

#[test]
fn what_is_in_the_way_is_told() {
    let ground = Ground::new();
    let authorities = ground.authorities(None);
    let fault = |chain: &Chain, at| authorities.check(chain, at).expect_err("not vouched for");
    let good = ground.of_ecdsa(|_| ());
    let until = authorities.check(&good, now()).expect("vouched for");
    assert!(until.abs_diff(now() + DAY.as_secs()) < 600, "{until}");
    assert_eq!(fault(&good, until + 1), CertificateFault::Expired);
    authorities.check(&good, until).expect("to the last second");
    let before = now() - 2 * DAY.as_secs();
    assert_eq!(fault(&good, before), CertificateFault::Early);
    let server = ground.of_ecdsa(|it| {
        it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert_eq!(fault(&server, now()), CertificateFault::Purpose);
    ground
        .authorities(None)
        .check(&ground.of_ecdsa(|it| it.extended_key_usages.clear()), now())
        .expect("one without purposes is for all (RFC 5280 section 4.2.1.12)");
    // Without what lies between, and by somebody else of the same name.
    let bare = Chain(good.0[..1].to_vec());
    let untrusted = |fault| matches!(fault, CertificateFault::Untrusted(_));
    assert!(untrusted(fault(&bare, now())));
    let stranger = Ground::new();
    assert!(untrusted(fault(&stranger.of_ecdsa(|_| ()), now())));
    for bytes in [&b""[..], b"\x30", b"\x31\x00", &good.to_der()[1..]] {
        assert!(Chain::from_der(bytes).is_err());
    }
    assert!(Chain::from_der(&good.to_der().repeat(5)).is_err());
}

#[test]
fn no_byte_of_a_certificate_can_be_changed() {
    let ground = Ground::new();
    let authorities = ground.authorities(None);
    let good = ground.of_ecdsa(|_| ());
    let der = good.to_der();
    for at in 0..good.0[0].len() {
        let mut changed = der.clone();
        changed[at] ^= 0x55;
        let Ok(chain) = Chain::from_der(&changed) else {
            continue;
        };
        // Whatever it is now, it is read without a panic, and nobody vouches for it.
        let _ = chain.user(&NamedBy::CommonName);
        assert!(authorities.check(&chain, now()).is_err(), "byte {at}");
    }
}

#[test]
fn what_is_revoked_or_not_known_to_be_good_is_refused() {
    let ground = Ground::new();
    let (good, later) = (ground.of_ecdsa(|_| ()), SystemTime::now() + DAY);
    let none = || ground.list(&ground.root, &[], later);
    let check = |lists: &[String]| ground.authorities(Some(lists)).check(&good, now());
    check(&[none(), ground.list(&ground.between, &[6, 8], later)]).expect("nothing revoked");
    let revoked = Err(CertificateFault::Revoked);
    assert_eq!(
        check(&[none(), ground.list(&ground.between, &[7], later)]),
        revoked
    );
    let by_root = ground.list(&ground.root, &[1000], later);
    let between = ground.list(&ground.between, &[], later);
    assert_eq!(
        check(&[by_root, between.clone()]),
        revoked,
        "what it stands on"
    );
    let stale = ground.list(&ground.between, &[], SystemTime::now() - DAY / 2);
    let forged = Ground::new();
    let forged = forged.list(&forged.between, &[], later);
    for lists in [
        vec![none()],
        vec![between],
        vec![none(), stale],
        vec![none(), forged],
    ] {
        let unchecked = check(&lists).expect_err("not known");
        assert!(
            matches!(unchecked, CertificateFault::Unchecked(_)),
            "{unchecked}"
        );
    }
}

#[test]
fn a_certificate_names_one_user() {
    let ground = Ground::new();
    let named = |chain: &Chain, by: &str| chain.user(&by.parse().expect("a way"));
    let ia5 = |text: &str| text.try_into().expect("ASCII");
    let chain = ground.of_ecdsa(|it| {
        it.subject_alt_names = vec![
            SanType::Rfc822Name(ia5("carol@Example.org")),
            SanType::Rfc822Name(ia5("carol@other.example")),
            SanType::URI(ia5("spiffe://example.org/user/dan")),
            SanType::URI(ia5("spiffe://example.org/host/x")),
            SanType::DnsName(ia5("bob.example.org")),
        ];
    });
    assert_eq!(named(&chain, "cn").as_deref(), Ok("bob"));
    assert_eq!(named(&chain, "email:example.org").as_deref(), Ok("carol"));
    assert_eq!(
        named(&chain, "uri:spiffe://example.org/user/").as_deref(),
        Ok("dan")
    );
    for by in ["email:ample.org", "email:none.example", "uri:urn:user:"] {
        let none = named(&chain, by).expect_err(by);
        assert!(none.to_string().contains("it has no"), "{none}");
    }
    let two = named(&chain, "uri:spiffe://example.org/").expect_err("host and user");
    assert!(two.to_string().contains("more than one"), "{two}");
    let nameless = ground.of_ecdsa(|it| it.distinguished_name = rcgen::DistinguishedName::new());
    assert_eq!(
        named(&nameless, "cn").expect_err("none").code(),
        Code::CertificateUser
    );
}

#[test]
fn files_that_cannot_be_used_are_refused_with_the_reason() {
    let ground = Ground::new();
    ground.of_ecdsa(|_| ());
    let (chain, key) = (ground.path("chain.pem"), ground.path("key.pem"));
    let other = ground.path("other.pem");
    let stranger = KeyPair::generate().expect("a key").serialize_pem();
    std::fs::write(&other, stranger).expect("written");
    let refused = |key| OwnCertificate::from_pem_files(&chain, key).expect_err("refused");
    let error = refused(&other);
    assert!(matches!(error, IdentityError::Unusable(_)), "{error}");
    for text in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII=\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMII=\n-----END RSA PRIVATE KEY-----\n",
    ] {
        std::fs::write(&other, text).expect("written");
        let error = refused(&other);
        assert!(matches!(error, IdentityError::Encrypted { .. }), "{error}");
    }
    for none in [&key, &ground.path("missing.pem")] {
        assert!(OwnCertificate::from_pem_files(none, &key).is_err());
        assert!(Authorities::from_pem_files(none, None).is_err());
        assert!(Authorities::from_pem_files(&chain, Some(none)).is_err());
    }
}

//! What a certificate proves and what not, by certificates made for it.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair as Pair, KeyUsagePurpose, date_time_ymd,
};

use super::*;

/// In the middle of 2026.
const NOW: u64 = 1_782_900_000;

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
    params
}

/// The parameters of a CA, below which there may be so many more.
fn authority(common_name: &str, below: BasicConstraints) -> CertificateParams {
    let mut params = named(common_name);
    params.is_ca = IsCa::Ca(below);
    params
}

/// A certificate and what can sign with its key.
struct Made {
    der: Vec<u8>,
    issuer: Issuer<'static, Pair>,
}

fn made(params: CertificateParams, by: Option<&Made>) -> Made {
    let pair = Pair::generate().expect("a key");
    let certificate = match by {
        Some(by) => params.signed_by(&pair, &by.issuer),
        None => params.self_signed(&pair),
    };
    let der = certificate.expect("a certificate").der().to_vec();
    Made { der, issuer: Issuer::new(params, pair) }
}

fn root() -> Made {
    made(authority("root", BasicConstraints::Unconstrained), None)
}

fn chain(certificates: &[&Made]) -> Chain {
    Chain::new(certificates.iter().map(|one| one.der.clone()).collect()).expect("within bounds")
}

fn trusted(made: &Made) -> Authority {
    Authority::from_der(made.der.clone()).expect("a CA")
}

fn device(id: &str) -> Identity {
    Identity::device(id).expect("an id")
}

#[test]
fn either_thumbprint_of_either_hash_in_any_letter_case_will_do() {
    let leaf = made(named("whoever"), None);
    let (chain, other) = (chain(&[&leaf]), "AB".repeat(20));
    let (short, long) = (sha1(&leaf.der), sha256(&leaf.der));
    assert_eq!((short.len(), long.len()), (40, 64));
    let check = |primary: &str, secondary: &str, now| {
        let pair = KeyPair { primary: primary.into(), secondary: secondary.into() };
        chain.has_thumbprint(&pair, now)
    };
    let until = Ok(1_798_761_600);
    for (primary, secondary) in [
        (short.as_str(), ""),
        ("", short.as_str()),
        (&long, &other),
        (&other, &long),
        (&short.to_lowercase(), &short.to_lowercase()),
        (&long.to_lowercase(), ""),
    ] {
        assert_eq!(check(primary, secondary, NOW), until, "{primary} {secondary}");
    }
    for (primary, secondary) in [(other.as_str(), ""), ("", ""), (&short[1..], &long[..40])] {
        let error = check(primary, secondary, NOW).expect_err("another's");
        let text = error.to_string();
        assert!(text.contains(&short) && text.contains(&long) && text.contains(primary), "{text}");
    }
    assert_eq!(check(&short, "", 1_767_225_599), Err(X509Error::NotYetValid));
    assert_eq!(check(&short, "", 1_767_225_600), until);
    assert_eq!(check(&short, "", 1_798_761_600), until);
    assert_eq!(check(&short, "", 1_798_761_601), Err(X509Error::Expired));
}

#[test]
fn garbage_is_refused_and_counted() {
    assert!(matches!(Chain::new(Vec::new()), Err(X509Error::Missing)));
    let (most, bytes) = (limits::CLIENT_CERTIFICATES, limits::CLIENT_CERTIFICATE_BYTES);
    assert!(Chain::new(vec![vec![0]; most]).is_ok() && Chain::new(vec![vec![0; bytes]]).is_ok());
    assert!(matches!(Chain::new(vec![vec![0]; most + 1]), Err(X509Error::TooLarge)));
    assert!(matches!(Chain::new(vec![vec![0; bytes], vec![0]]), Err(X509Error::TooLarge)));
    let (root, id) = (root(), device("d"));
    let leaf = made(named("d"), Some(&root));
    let ca = trusted(&root);
    let damaged = (0..leaf.der.len()).flat_map(|at| {
        let mut flipped = leaf.der.clone();
        flipped[at] ^= 0x20;
        [leaf.der[..at].to_vec(), flipped]
    });
    let more = [leaf.der.as_slice(), &[0]].concat();
    for der in damaged.chain([more, vec![0x30; 500], [0x30, 0x84, 0xff, 0xff, 0xff, 0xff].into()]) {
        let chain = Chain::new(vec![der.clone()]).expect("small");
        assert!(chain.proves(&id, &[&ca], NOW).is_err(), "{der:x?}");
        let pair = KeyPair { primary: sha1(&der), secondary: String::new() };
        // Whatever its thumbprint was registered for; it must not panic.
        let _ = chain.has_thumbprint(&pair, NOW);
        assert!(Authority::from_der(der).is_err());
    }
    // Garbage beside a good leaf neither helps nor hurts.
    let beside = Chain::new(vec![leaf.der.clone(), vec![0xff; 64], vec![]]).expect("small");
    assert!(beside.proves(&id, &[&ca], NOW).is_ok());
}

#[test]
fn a_chain_must_lead_to_a_ca_and_bear_the_id() {
    #[track_caller]
    fn check(shown: &[&Made], authorities: &[&Authority], id: &Identity, want: Option<&str>) {
        let outcome = chain(shown).proves(id, authorities, NOW);
        match (outcome, want) {
            (Ok(until), None) => assert_eq!(until, 1_798_761_600),
            (Err(error), Some(want)) => {
                assert!(error.to_string().contains(want), "{error}");
            }
            (outcome, want) => panic!("got {outcome:?}, wanted {want:?}"),
        }
    }
    let (root, other) = (root(), root());
    let (ca, stranger) = (trusted(&root), trusted(&other));
    let between = made(authority("between", BasicConstraints::Unconstrained), Some(&root));
    let deep = made(authority("deep", BasicConstraints::Unconstrained), Some(&between));
    let (d, m) = (device("d"), Identity::module("d", "m").expect("an id"));
    let direct = made(named("d"), Some(&root));
    check(&[&direct], &[&ca], &d, None);
    check(&[&direct], &[&stranger, &ca], &d, None);
    // With the root, which many send, and with what has nothing to do with it.
    check(&[&direct, &root], &[&ca], &d, None);
    check(&[&direct, &other, &deep], &[&ca], &d, None);
    let module = made(named("d/m"), Some(&root));
    check(&[&module], &[&ca], &m, None);

    let below = made(named("d"), Some(&deep));
    check(&[&below, &deep, &between], &[&ca], &d, None);
    check(&[&below, &between, &deep], &[&ca], &d, None);
    check(&[&below, &between], &[&ca], &d, Some("UnknownIssuer"));
    check(&[&below], &[&ca], &d, Some("UnknownIssuer"));
    // An intermediate that is registered itself needs no root.
    check(&[&below], &[&trusted(&deep)], &d, None);

    check(&[&direct], &[], &d, Some("no verified CA"));
    check(&[&direct], &[&stranger], &d, Some("no verified CA"));
    check(&[&made(named("d"), None)], &[&ca], &d, Some("no verified CA"));
    for id in [device("D"), device("dd"), m] {
        check(&[&direct], &[&ca], &id, Some("common name"));
    }
    check(&[&module], &[&ca], &d, Some("common name"));
    let mut two = named("d");
    two.distinguished_name.push(DnType::OrganizationName, "d");
    check(&[&made(two, Some(&root))], &[&ca], &d, None);
    let mut none = named("d");
    none.distinguished_name = rcgen::DistinguishedName::new();
    check(&[&made(none, Some(&root))], &[&ca], &d, Some("common name"));
    // Another name does not stand in for the common name.
    let mut alternative = named("x");
    alternative.subject_alt_names = vec![rcgen::SanType::DnsName("d".try_into().expect("a name"))];
    check(&[&made(alternative, Some(&root))], &[&ca], &d, Some("common name"));

    // A leaf of another leaf, and a leaf that is a CA.
    let forged = made(named("d"), Some(&direct));
    check(&[&forged, &direct], &[&ca], &d, Some("EndEntityUsedAsCa"));
    let sub = made(authority("d", BasicConstraints::Unconstrained), Some(&root));
    check(&[&sub], &[&ca], &d, Some("CaUsedAsEndEntity"));
    // For servers only.
    let mut server = named("d");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    check(&[&made(server.clone(), Some(&root))], &[&ca], &d, Some("no verified CA"));
    server.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    check(&[&made(server, Some(&root))], &[&ca], &d, None);
}

#[test]
fn every_date_and_every_length_of_a_chain_counts() {
    let early = |mut params: CertificateParams| {
        params.not_after = date_time_ymd(2026, 2, 1);
        params
    };
    let late = |mut params: CertificateParams| {
        params.not_before = date_time_ymd(2026, 12, 1);
        params
    };
    let ca = |below| authority("ca", below);
    let unbound = BasicConstraints::Unconstrained;
    for (what, root, between, leaf, good) in [
        ("all is well", ca(unbound), ca(unbound), named("d"), true),
        ("leaf over", ca(unbound), ca(unbound), early(named("d")), false),
        ("leaf to come", ca(unbound), ca(unbound), late(named("d")), false),
        ("intermediate over", ca(unbound), early(ca(unbound)), named("d"), false),
        ("intermediate to come", ca(unbound), late(ca(unbound)), named("d"), false),
        ("root over", early(ca(unbound)), ca(unbound), named("d"), false),
        ("root to come", late(ca(unbound)), ca(unbound), named("d"), false),
        ("root allows one", ca(BasicConstraints::Constrained(1)), ca(unbound), named("d"), true),
        ("root allows none", ca(BasicConstraints::Constrained(0)), ca(unbound), named("d"), false),
    ] {
        let root = made(root, None);
        let between = made(between, Some(&root));
        let leaf = made(leaf, Some(&between));
        let ca = trusted(&root);
        let outcome = chain(&[&leaf, &between]).proves(&device("d"), &[&ca], NOW);
        assert_eq!(outcome.is_ok(), good, "{what}: {outcome:?}");
    }
    // That it is not known, where it has run out, would lead nobody to its dates.
    let over = made(early(authority("old", unbound)), None);
    let leaf = made(named("d"), Some(&over));
    let outcome = chain(&[&leaf]).proves(&device("d"), &[&trusted(&over)], NOW);
    let said = outcome.expect_err("it has run out").to_string();
    assert!(said.contains("CN=old is out of date"), "{said}");

    let mut all = vec![root()];
    for _ in 0..limits::CLIENT_CERTIFICATES - 1 {
        let below = made(ca(unbound), all.last());
        all.push(below);
    }
    let leaf = made(named("d"), all.last());
    let shown: Vec<_> = std::iter::once(&leaf).chain(all[1..].iter().rev()).collect();
    let outcome = chain(&shown).proves(&device("d"), &[&trusted(&all[0])], NOW);
    assert!(matches!(outcome, Err(X509Error::Untrusted { .. })), "too deep: {outcome:?}");
}

#[test]
fn only_a_ca_is_taken_for_one() {
    assert_eq!(
        Authority::from_der(made(named("x"), None).der).err(),
        Some(X509Error::NotAnAuthority)
    );
    let mut explicit = named("x");
    explicit.is_ca = IsCa::ExplicitNoCa;
    assert_eq!(
        Authority::from_der(made(explicit, None).der).err(),
        Some(X509Error::NotAnAuthority)
    );
    let mut usage = authority("x", BasicConstraints::Unconstrained);
    usage.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert_eq!(
        Authority::from_der(made(usage.clone(), None).der).err(),
        Some(X509Error::NotAnAuthority)
    );
    usage.key_usages.push(KeyUsagePurpose::KeyCertSign);
    let ca = trusted(&made(usage, None));
    assert_eq!((ca.subject(), ca.expires()), ("CN=x", 1_798_761_600));
    assert_eq!(ca.thumbprint(), sha1(ca.der()));
    assert_eq!(Authority::from_der(ca.der().to_vec()).expect("the same").subject(), ca.subject());
    let huge = vec![0; limits::CLIENT_CERTIFICATE_BYTES + 1];
    assert_eq!(Authority::from_der(huge).err(), Some(X509Error::TooLarge));
}

#[test]
fn possession_is_proved_by_a_certificate_over_the_code() {
    let (root, code) = (root(), "0123456789ABCDEF");
    let (ca, proof) = (trusted(&root), made(named(code), Some(&root)));
    assert_eq!(chain(&[&proof]).proves_possession(&ca, code, NOW), Ok(()));
    assert!(chain(&[&proof]).proves_possession(&ca, "0123456789ABCDEE", NOW).is_err());
    let other = chain(&[&made(named(code), None)]).proves_possession(&ca, code, NOW);
    assert!(matches!(other, Err(X509Error::NotPossessed { .. })), "{other:?}");
    assert!(
        chain(&[&root]).proves_possession(&ca, "root", NOW).is_err(),
        "the CA itself is public"
    );
}

#[test]
fn pem_is_read_and_nothing_else() {
    let root = root();
    let pem = pem_of(&root.der);
    assert_eq!(from_pem(&pem), Ok(root.der.clone()));
    assert_eq!(from_pem(&format!("subject=CN=root\n{pem}{}", pem_of(b"another"))), Ok(root.der));
    for text in ["", "-----BEGIN CERTIFICATE-----", &pem[..60], &pem.replace("CERT", "KEY")] {
        assert_eq!(from_pem(text), Err(X509Error::NotPem), "{text}");
    }
}

/// A CA, an intermediate of it and a leaf of that.
static CHAIN: LazyLock<[Made; 3]> = LazyLock::new(|| {
    let root = root();
    let between = made(authority("between", BasicConstraints::Unconstrained), Some(&root));
    let leaf = made(named("d"), Some(&between));
    [root, between, leaf]
});

proptest! {
    /// Bytes replaced, put in and left out.
    #[test]
    fn a_certificate_that_was_changed_proves_nothing(
        edits in proptest::collection::vec((any::<Index>(), 0..3, any::<u8>()), 1..6),
        of_leaf in any::<bool>(),
    ) {
        let [root, between, leaf] = &*CHAIN;
        let mut shown = vec![leaf.der.clone(), between.der.clone()];
        let changed = &mut shown[usize::from(!of_leaf)];
        for (at, edit, byte) in edits {
            let at = at.index(changed.len());
            match edit {
                0 => changed[at] = byte,
                1 => changed.insert(at, byte),
                _ => {
                    changed.remove(at);
                }
            }
        }
        let changed = changed.clone();
        prop_assume!(![&leaf.der, &between.der].contains(&&changed));
        let chain = Chain::new(shown).expect("small");
        prop_assert!(chain.proves(&device("d"), &[&trusted(root)], NOW).is_err());
        let pair = KeyPair { primary: sha1(&changed), secondary: String::new() };
        let _ = Chain::new(vec![changed.clone()]).expect("small").has_thumbprint(&pair, NOW);
        let _ = Authority::from_der(changed);
    }
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

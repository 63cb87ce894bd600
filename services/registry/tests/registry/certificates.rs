//! CA certificates, and identities that prove who they are by one of theirs.

use dunlin_model::ErrorCode as E;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use super::identities::as_a_crash_leaves_it;
use super::*;

/// Unix seconds.
const NEW_YEAR_2090: u64 = 3_786_912_000;

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
    params
}

/// A CA, and its certificate in PEM.
fn authority(common_name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = named(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pair = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&pair).expect("a certificate").pem();
    (Issuer::new(params, pair), pem)
}

fn signed(ca: &Issuer<'static, KeyPair>, common_name: &str) -> rcgen::Certificate {
    let pair = KeyPair::generate().expect("a key");
    named(common_name).signed_by(&pair, ca).expect("a certificate")
}

impl Hub {
    async fn show(
        &mut self,
        id: &str,
        shown: &rcgen::Certificate,
    ) -> Result<v1::AuthenticateResponse, HubError> {
        let request = v1::AuthenticateRequest {
            identity: id.to_owned(),
            sas_token: String::new(),
            certificates: vec![shown.der().to_vec()],
        };
        code(self.client.authenticate(request).await)
    }

    async fn verified(&mut self, name: &str, ca: &Issuer<'static, KeyPair>, pem: String) {
        let name = name.to_owned();
        let add = v1::AddAuthorityRequest { name: name.clone(), pem };
        code(self.client.add_authority(add).await).expect("added");
        let ask = v1::GenerateVerificationCodeRequest { name: name.clone(), if_match: None };
        let asked = code(self.client.generate_verification_code(ask).await).expect("a code");
        let pem = signed(ca, &asked.verification_code).pem();
        let verify = v1::VerifyAuthorityRequest { name, pem, if_match: None };
        assert!(code(self.client.verify_authority(verify).await).expect("verified").verified);
    }
}

fn by_ca(id: &str) -> v1::Identity {
    let kind = Some(v1::authentication::Kind::CertificateAuthority(v1::Empty {}));
    let authentication = Some(v1::Authentication { kind, renew_keys: false });
    v1::Identity { authentication, ..device(id) }
}

/// What ends with its certificate is its connection: the gateway is told when.
#[tokio::test(flavor = "multi_thread")]
async fn who_shows_a_certificate_is_let_in_until_it_ends() {
    let mut hub = Hub::start().await;
    let (ca, pem) = authority("ca");
    hub.verified("ca", &ca, pem).await;
    let made = hub.create(by_ca("d")).await.expect("created");
    hub.create(by_ca("d/m")).await.expect("created");
    for (id, scope) in
        [("d", v1::AuthScope::DeviceCertificate), ("d/m", v1::AuthScope::ModuleCertificate)]
    {
        let granted = hub.show(id, &signed(&ca, id)).await.expect("let in");
        assert_eq!((granted.scope(), granted.expires), (scope, NEW_YEAR_2090), "{id}");
    }
    // A disabled device takes its modules with it, and only who has the certificate learns it.
    let off = v1::Identity { status: v1::Status::Disabled.into(), ..made };
    hub.replace(off, None).await.expect("disabled");
    for id in ["d", "d/m"] {
        refused(hub.show(id, &signed(&ca, id)).await, E::DeviceDisabled);
        refused(hub.show(id, &signed(&ca, "x")).await, E::IotHubUnauthorized);
        refused(hub.show(id, &signed(&authority("ca").0, id)).await, E::IotHubUnauthorized);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_is_there_after_a_restart_and_stands_sealed() {
    let mut hub = Hub::start().await;
    let (ca, pem) = authority("ca");
    hub.verified("ca", &ca, pem.clone()).await;
    hub.create(by_ca("d")).await.expect("created");
    let folder = as_a_crash_leaves_it(&hub.folder);
    // Who reads the store finds no certificate there, and so can put none in its place.
    let base64 = pem.lines().nth(1).expect("a line").as_bytes();
    for file in folder.path().read_dir().expect("the folder") {
        let path = file.expect("a file").path();
        let bytes = std::fs::read(&path).expect("read");
        let found = bytes.windows(base64.len()).any(|part| part == base64);
        assert!(!found, "{}", path.display());
    }
    let mut hub = Hub { client: open(&folder, [7; 32]).await.expect("opens"), folder };
    hub.show("d", &signed(&ca, "d")).await.expect("let in");
    let all = code(hub.client.list_authorities(v1::ListAuthoritiesRequest {}).await);
    let all = all.expect("listed").authorities;
    let all: Vec<_> = all.iter().map(|one| (one.subject.as_str(), one.verified)).collect();
    assert_eq!(all, [("CN=ca", true)]);
}

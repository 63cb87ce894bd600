//! Certificates for tests, and devices that show them.

use dunlin::test_hub::TestHub;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

use crate::mqtt_kit::Door;
use crate::raw::{self, Connect};

/// A certificate, those that lead from it to a CA, and its key.
pub struct Card {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    pub pem: String,
    /// PKCS #8.
    pub key: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// Valid through all of our days.
pub fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    between(params, 2020, 2090)
}

pub fn between(mut params: CertificateParams, from: i32, until: i32) -> CertificateParams {
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
    params
}

pub fn authority(common_name: &str) -> CertificateParams {
    let mut params = named(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Card {
    pub fn self_signed(params: CertificateParams) -> Self {
        let pair = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&pair).expect("a certificate");
        Self {
            chain: vec![certificate.der().to_vec()],
            pem: certificate.pem(),
            key: pair.serialize_der(),
            issuer: Issuer::new(params, pair),
        }
    }

    /// One of this CA, whose chain goes on with the CA's.
    pub fn sign(&self, params: CertificateParams) -> Self {
        let pair = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&pair, &self.issuer).expect("a certificate");
        let mut chain = vec![certificate.der().to_vec()];
        chain.extend(self.chain.iter().cloned());
        let (pem, key) = (certificate.pem(), pair.serialize_der());
        Self { chain, pem, key, issuer: Issuer::new(params, pair) }
    }

    pub fn sha1(&self) -> String {
        hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.chain[0]).as_ref())
    }

    pub fn sha256(&self) -> String {
        hex(digest(&SHA256, &self.chain[0]).as_ref())
    }

    /// A door at which this is shown.
    pub fn at(&self, hub: &TestHub, door: &Door) -> Door {
        self.at_showing(hub, door, self.chain.len())
    }

    /// A door at which the first so many of its chain are shown.
    pub fn at_showing(&self, hub: &TestHub, door: &Door, count: usize) -> Door {
        let chain = self.chain[..count].to_vec();
        let mut door = door.clone();
        door.tls = raw::connector_showing(hub.ca_pem(), chain, self.key.clone());
        door
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `authentication` of an identity with these thumbprints.
pub fn thumbprints(primary: &str, secondary: &str) -> Value {
    let both = json!({"primaryThumbprint": primary, "secondaryThumbprint": secondary});
    json!({"authentication": {"type": "selfSigned", "x509Thumbprint": both}})
}

/// Registers `d` or `d/m`.
pub async fn register(hub: &TestHub, id: &str, authentication: &Value) {
    hub.client().device_put(id, authentication, None).await.expect("created");
}

/// A CONNECT without a password.
pub fn connect(id: &str) -> Connect {
    let username = format!("localhost/{id}/?api-version=2021-04-12");
    Connect { password: None, ..Connect::new(id, &username, "") }
}

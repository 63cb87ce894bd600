//! A hub whose processes show one another certificates.

use dunlin::config::Config;
use dunlin::test_hub::{Setup, TestHub};
use dunlin_model::Identity;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::method_kit::{answer, call, called, ended, invoke, listening};
use crate::mqtt_kit::{Device, Door, bodies, events};
use crate::raw::puback;

/// A connect, a message and a call: between them they cross every way between two processes.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_served_across_processes_that_speak_tls() {
    let hub =
        TestHub::start(Setup { edit: Box::new(with_tls), ..Setup::split().on_servers() }).await;
    let (door, client) = (Door::of(&hub), hub.client());
    let device = Device::create(&hub, "d").await;
    let mut raw = listening(&door, &device).await;
    // The gateway's name to the others is its URL.
    let id = Identity::device("d").expect("an id");
    let holder = hub.stores().presence.holder(&id).await.expect("asked").expect("held");
    assert!(holder.node.starts_with("https://"), "{}", holder.node);
    raw.send(&device.message(1, b"hello")).await;
    raw.expect(&puback(1)).await;
    assert_eq!(bodies(&events(&hub, "d", 1).await), ["hello"]);
    let running = invoke(&client, "d", call("m", 0, "1"));
    let rid = called(&mut raw).await.rid;
    raw.send(&answer(200, &rid, "2")).await;
    assert_eq!(ended(running).await.expect("answered"), r#"{"status":200,"payload":2}"#);
    hub.stop().await;
}

/// One certificate for all of them, in the hub's folder.
fn with_tls(config: &mut Config) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pair = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&pair).expect("a CA").pem();
    let issuer = Issuer::new(params, pair);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["dunlin".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate").pem();
    let write = |name: &str, pem: &str| {
        let path = config.hub.data.join(name);
        std::fs::write(&path, pem).expect("written");
        path
    };
    let ca = write("mesh-ca.pem", &authority);
    let cert = write("mesh.pem", &certificate);
    let key = write("mesh.key", &key.serialize_pem());
    (config.mesh.tls_ca, config.mesh.tls_cert, config.mesh.tls_key) = (ca, cert, key);
}

//! Who may connect, and what a back end may do.

use dunlin_auth::Permissions;
use dunlin_model::ErrorCode as E;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_connects_with_either_key_or_a_policy() {
    let mut hub = Hub::start().await;
    let made = hub.create(device("d")).await.expect("created");
    let (owner, registry) =
        (hub.policy_key("iothubowner").await, hub.policy_key("registryReadWrite").await);
    let [primary, secondary] = [keys(&made).primary, keys(&made).secondary]
        .map(|text| Key::from_base64(&text).expect("a key"));
    let (own, soon) = (resource("d"), in_an_hour());

    for key in [&primary, &secondary] {
        let got = hub.authenticate("d", &sas::sign(&own, None, key, soon)).await.expect("let in");
        let want = v1::AuthenticateResponse {
            generation_id: made.generation_id.clone(),
            scope: v1::AuthScope::Device.into(),
            auth_version: got.auth_version,
            expires: soon,
            session: Some(v1::Session::default()),
        };
        assert_eq!(got, want);
    }
    for resource in [HOST.to_owned(), "localhost:8443/devices".to_owned(), own.clone()] {
        let token = sas::sign(&resource, Some("iothubowner"), &owner, soon);
        let got = hub.authenticate("d", &token).await.expect(&resource);
        assert_eq!(got.scope(), v1::AuthScope::Hub);
    }
    let past = in_an_hour() - 3_600 - 301;
    for (what, token, want, says) in [
        ("garbage", "hello".to_owned(), E::IotHubUnauthorized, "not a SAS token"),
        ("expired", sas::sign(&own, None, &primary, past), E::IotHubUnauthorized, "expired"),
        ("no key", sas::sign(&own, None, &owner, soon), E::IotHubUnauthorized, "signature"),
        ("scope", sas::sign(&resource("e"), None, &primary, soon), E::IotHubUnauthorized, "sr"),
        ("hub", sas::sign("other/devices/d", None, &primary, soon), E::IotHubUnauthorized, "sr"),
        (
            "policy without the right",
            sas::sign(HOST, Some("registryReadWrite"), &registry, soon),
            E::IotHubUnauthorized,
            "DeviceConnect",
        ),
        ("policy", sas::sign(HOST, Some("nobody"), &owner, soon), E::IotHubUnauthorized, "nobody"),
        (
            "policy's name with the device's key",
            sas::sign(&own, Some("iothubowner"), &primary, soon),
            E::IotHubUnauthorized,
            "signature",
        ),
    ] {
        let message = refused(hub.authenticate("d", &token).await, want);
        assert!(message.contains(says), "{what}: {message}");
        assert!(!message.contains(&token), "{what}: {message}");
    }
    let unknown = sas::sign(&resource("e"), None, &primary, soon);
    refused(hub.authenticate("e", &unknown).await, E::DeviceNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_device_is_refused_only_to_who_holds_a_key() {
    let mut hub = Hub::start().await;
    let made = hub.create(device("d")).await.expect("created");
    let module = hub.create(device("d/m")).await.expect("created");
    let before = hub.authenticate("d/m", &own_token(&module)).await.expect("let in");
    assert_eq!(before.scope(), v1::AuthScope::Module);
    let own_before = hub.authenticate("d", &own_token(&made)).await.expect("let in");

    let off = v1::Identity { status: v1::Status::Disabled.into(), ..made.clone() };
    hub.replace(off, None).await.expect("disabled");
    refused(hub.authenticate("d", &own_token(&made)).await, E::DeviceDisabled);
    refused(hub.authenticate("d/m", &own_token(&module)).await, E::DeviceDisabled);
    let stranger = sas::sign(&resource("d"), None, &Key::generate(), in_an_hour());
    refused(hub.authenticate("d", &stranger).await, E::IotHubUnauthorized);

    hub.replace(made.clone(), None).await.expect("enabled");
    let own_after = hub.authenticate("d", &own_token(&made)).await.expect("let in");
    assert_eq!(own_after.auth_version, own_before.auth_version + 2);
    let after = hub.authenticate("d/m", &own_token(&module)).await.expect("let in");
    assert!(after.auth_version > before.auth_version, "what revokes a device revokes its modules");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_no_credential_revokes_nothing() {
    let mut hub = Hub::start().await;
    let made = hub.create(device("d")).await.expect("created");
    let first = hub.authenticate("d", &own_token(&made)).await.expect("let in").auth_version;
    let reason = v1::Identity { status_reason: Some("moved".into()), ..made.clone() };
    hub.replace(reason, None).await.expect("replaced");
    assert_eq!(hub.authenticate("d", &own_token(&made)).await.expect("let in").auth_version, first);
    let pair = keys(&made);
    let swapped =
        v1::Identity { authentication: with_keys(&pair.secondary, &pair.primary), ..device("d") };
    hub.replace(swapped, None).await.expect("replaced");
    let swapped = hub.authenticate("d", &own_token(&made)).await.expect("let in");
    assert_eq!(swapped.auth_version, first + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_prove_their_own_identity_only() {
    let mut hub = Hub::start().await;
    let made = hub.create(device("d")).await.expect("created");
    let module = hub.create(device("d/m")).await.expect("created");
    refused(hub.authenticate("d/m", &own_token(&made)).await, E::IotHubUnauthorized);
    refused(hub.authenticate("d", &own_token(&module)).await, E::IotHubUnauthorized);
    let key = Key::from_base64(&keys(&made).primary).expect("a key");
    let posing = sas::sign(&resource("d/m"), None, &key, in_an_hour());
    refused(hub.authenticate("d/m", &posing).await, E::IotHubUnauthorized);
    let missing = sas::sign(&resource("d/x"), None, &key, in_an_hour());
    refused(hub.authenticate("d/x", &missing).await, E::ModuleNotFound);

    let thumbprint = v1::KeyPair { primary: "ab".repeat(20), secondary: String::new() };
    let by_certificate = v1::Identity {
        authentication: Some(v1::Authentication {
            kind: Some(v1::authentication::Kind::SelfSigned(thumbprint.clone())),
            renew_keys: false,
        }),
        ..device("x509")
    };
    hub.create(by_certificate).await.expect("created");
    let key = Key::from_base64(&thumbprint.primary).expect("hex reads as base64");
    let posing = sas::sign(&resource("x509"), None, &key, in_an_hour());
    let message = refused(hub.authenticate("x509", &posing).await, E::IotHubUnauthorized);
    assert!(message.contains("not sas"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_may_do_what_its_policy_permits() {
    use Permissions as P;

    let mut hub = Hub::start().await;
    let made = hub.create(device("d")).await.expect("created");
    let service = hub.policy_key("service").await;
    let token = |resource: &str| sas::sign(resource, Some("service"), &service, in_an_hour());
    for (token, path, wanted, want) in [
        (token(HOST), "/devices/d", P::SERVICE_CONNECT, Ok("service")),
        (token("HUB.localhost"), "/", P::SERVICE_CONNECT, Ok("service")),
        (token("localhost/devices/d"), "/devices/d", P::SERVICE_CONNECT, Ok("service")),
        (
            token("localhost/devices/d"),
            "/devices/e",
            P::SERVICE_CONNECT,
            Err(E::IotHubUnauthorized),
        ),
        (token(HOST), "/devices/d", P::REGISTRY_READ, Err(E::IotHubUnauthorizedAccess)),
        (own_token(&made), "/devices/d", P::SERVICE_CONNECT, Err(E::IotHubUnauthorized)),
        (String::new(), "/devices/d", P::SERVICE_CONNECT, Err(E::IotHubUnauthorized)),
    ] {
        let request = v1::AuthorizeRequest {
            sas_token: token,
            path: path.to_owned(),
            permissions: wanted.bits(),
            query_token: None,
        };
        let got = code(hub.client.authorize(request).await);
        assert_eq!(
            got.map(|answer| answer.policy).map_err(|error| error.code),
            want.map(str::to_owned),
            "{path} {wanted}"
        );
    }
    let bits = v1::AuthorizeRequest { permissions: 16, ..v1::AuthorizeRequest::default() };
    refused(code(hub.client.authorize(bits).await), E::ArgumentInvalid);
}

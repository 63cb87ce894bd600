//! Who may connect as whom: user names, SAS tokens, policies, and what is answered to the rest.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dunlin::test_hub::TestHub;
use dunlin_auth::{Key, sas};
use dunlin_proto::v1::GetPolicyRequest;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_registry::MasterKey;
use dunlin_runtime::clock::unix_seconds;
use dunlin_runtime::{DeviceLinks, Mesh, Role};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use crate::mqtt_kit::{Device, Door, beside, deliver, door_beside, set_status};
use crate::raw::Connect;

scenario!(every_user_name_is_understood);
async fn every_user_name_is_understood(hub: &TestHub) {
    let door = Door::of(hub);
    for id in ["d", "d/m", "?odd+id#1%20"] {
        let device = Device::create(hub, id).await;
        for username in [
            // What the SDKs of Python, Node, C#, Java and C send.
            "localhost/ID/?api-version=2019-10-01&DeviceClientType=azure-iot-device%2F2.14.0",
            "localhost/ID/?api-version=2020-09-30&DeviceClientType=p&model-id=dtmi%3Ax%3By%3B1",
            "localhost/ID/?api-version=2021-04-12&model-id=dtmi:x:y;1&DeviceClientType=n%2F1",
            "localhost/ID/?api-version=2020-09-30&DeviceClientType=c&auth-chain=a%3Bb%3B",
            "localhost/ID/?api-version=2020-09-30&model-id=dtmi%3Ax&DeviceClientType=j",
            // What the documentation has shown over the years.
            "localhost/ID/api-version=2016-11-14",
            "localhost/ID/?api-version=2021-04-12",
            "localhost/ID",
            "localhost/ID/",
            "localhost/ID/api-version=2017-06-30/DeviceClientType=x",
            // Any name of the hub will do, in any case, and with a port.
            "hub.LocalHost/ID/?api-version=2021-04-12",
            "127.0.0.1/ID/?api-version=2021-04-12",
            "localhost:8883/ID/?api-version=2021-04-12",
            // What is not known does no harm.
            "localhost/ID/?api-version=2099-01-01&fancy=%ff&&=&x",
        ] {
            let username = Some(username.replace("ID", id));
            door.enter(&Connect { username, ..device.connect() }).await;
        }
    }
}

scenario!(client_id_and_user_name_must_agree);
async fn client_id_and_user_name_must_agree(hub: &TestHub) {
    let door = Door::of(hub);
    let device = Device::create(hub, "d").await;
    let other = Device::create(hub, "D").await;
    Device::create(hub, "d/m").await;
    Device::create(hub, "dd").await;
    let query = "?api-version=2021-04-12";
    for (client_id, username) in [
        ("D", format!("localhost/d/{query}")),
        ("dd", format!("localhost/d/{query}")),
        ("d", format!("localhost/dd/{query}")),
        ("d", format!("localhost/D/{query}")),
        ("d", format!("localhost/d/m/{query}")),
        ("d/m", format!("localhost/d/{query}")),
        ("d/m/x", format!("localhost/d/m/x/{query}")),
        ("d ", format!("localhost/d /{query}")),
        ("d", "localhost".to_owned()),
        ("d", String::new()),
        ("d", "d".to_owned()),
        ("d", format!("/d/{query}")),
        // Another hub's name, and something that only begins as this one's.
        ("d", format!("other.azure-devices.net/d/{query}")),
        ("d", format!("localhost.evil/d/{query}")),
    ] {
        let (client_id, username) = (client_id.to_owned(), Some(username));
        door.refuses(&Connect { client_id, username, ..device.connect() }, 5).await;
    }
    // The ClientId says whose key it must be, and whose messages they are.
    let password = device.connect().password;
    door.refuses(&Connect { password, ..other.connect() }, 5).await;
    door.enter(&other.connect()).await;
}

// Nothing but the connection is concerned.
#[tokio::test]
async fn user_name_and_password_are_required() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    door.refuses(&Connect { password: None, ..device.connect() }, 5).await;
    door.refuses(&Connect { username: None, password: None, ..device.connect() }, 5).await;
    hub.stop().await;
}

scenario!(either_key_signs);
async fn either_key_signs(hub: &TestHub) {
    let door = Door::of(hub);
    for id in ["d", "d/m"] {
        let device = Device::create(hub, id).await;
        let resource = format!("localhost/{}", device.path());
        let later = unix_seconds() + 60;
        for key in [&device.primary, &device.secondary] {
            door.enter(&device.connect_with(&sas::sign(&resource, None, key, later))).await;
        }
        let stranger = sas::sign(&resource, None, &Key::generate(), later);
        door.refuses(&device.connect_with(&stranger), 5).await;
    }
}

scenario!(whoever_is_unknown_or_disabled_is_refused);
async fn whoever_is_unknown_or_disabled_is_refused(hub: &TestHub) {
    let door = Door::of(hub);
    let device = Device::create(hub, "d").await;
    let module = Device::create(hub, "d/m").await;
    for id in ["nobody", "d/nobody", "nobody/m"] {
        let nobody = Device { id: id.to_owned(), ..device.clone() };
        door.refuses(&nobody.connect(), 5).await;
    }
    set_status(hub, "d", "disabled").await;
    door.refuses(&device.connect(), 5).await;
    // A module is as disabled as its device.
    door.refuses(&module.connect(), 5).await;
    set_status(hub, "d", "enabled").await;
    door.enter(&device.connect()).await;
    door.enter(&module.connect()).await;
}

scenario!(a_policy_with_device_connect_speaks_for_devices);
async fn a_policy_with_device_connect_speaks_for_devices(hub: &TestHub) {
    let door = Door::of(hub);
    let device = Device::create(hub, "d").await;
    let module = Device::create(hub, "d/m").await;
    let later = unix_seconds() + 60;
    for name in ["device", "iothubowner"] {
        let keys = policy_keys(hub, name).await;
        for (key, resource) in keys
            .iter()
            .zip(["localhost", "localhost/devices"])
            .chain([(&keys[0], "hub.localhost"), (&keys[0], "LOCALHOST/devices/")])
        {
            let token = sas::sign(resource, Some(name), key, later);
            door.enter(&device.connect_with(&token)).await;
            door.enter(&module.connect_with(&token)).await;
        }
        // Of one device: that device, and none other.
        let token = sas::sign("localhost/devices/d", Some(name), &keys[0], later);
        door.enter(&device.connect_with(&token)).await;
        door.refuses(&module.connect_with(&token), 5).await;
        let token = sas::sign("localhost/devices/d/modules/m", Some(name), &keys[0], later);
        door.enter(&module.connect_with(&token)).await;
        door.refuses(&device.connect_with(&token), 5).await;
        // The policy's key without its name, its name with a device's key, another's name.
        for token in [
            sas::sign("localhost/devices/d", None, &keys[0], later),
            sas::sign("localhost/devices/d", Some(name), &device.primary, later),
            sas::sign("localhost/devices/d", Some("nosuch"), &keys[0], later),
            sas::sign("localhost", Some("service"), &keys[0], later),
        ] {
            door.refuses(&device.connect_with(&token), 5).await;
        }
    }
    // A device's key does not sign for the hub, whatever it writes.
    for resource in ["localhost", "localhost/devices"] {
        let token = sas::sign(resource, None, &device.primary, later);
        door.refuses(&module.connect_with(&token), 5).await;
    }
    for name in ["service", "registryRead", "registryReadWrite"] {
        let [key, _] = policy_keys(hub, name).await;
        let token = sas::sign("localhost", Some(name), &key, later);
        door.refuses(&device.connect_with(&token), 5).await;
    }
}

scenario!(sr_covers_whole_segments);
async fn sr_covers_whole_segments(hub: &TestHub) {
    let door = Door::of(hub);
    let device = Device::create(hub, "bc").await;
    let module = Device::create(hub, "bc/m").await;
    let later = unix_seconds() + 60;
    let sign = |resource: &str| sas::sign(resource, None, &device.primary, later);
    for covered in [
        "localhost/devices/bc",
        "localhost/devices/bc/",
        "localhost/devices/bc/api-version=2016-11-14",
        "hub.localhost/devices/bc",
        "localhost:8883/devices/bc",
    ] {
        door.enter(&device.connect_with(&sign(covered))).await;
    }
    for other in [
        "localhost/devices/b",
        "localhost/devices/bcd",
        "localhost/devices/BC",
        "localhost/devices/bc/modules/m",
        "localhost/devices/bc/messages",
        "localhost/device/bc",
        "localhost/twins/bc",
        "other.azure-devices.net/devices/bc",
        "localhostx/devices/bc",
        "/devices/bc",
        "",
    ] {
        door.refuses(&device.connect_with(&sign(other)), 5).await;
    }
    // A device does not speak for its modules, nor with their keys.
    for resource in ["localhost/devices/bc", "localhost/devices/bc/modules/m"] {
        door.refuses(&module.connect_with(&sign(resource)), 5).await;
    }
    let token = sas::sign("localhost/devices/bc", None, &module.primary, later);
    door.refuses(&device.connect_with(&token), 5).await;
}

scenario!(tokens_expire_with_five_minutes_of_skew);
async fn tokens_expire_with_five_minutes_of_skew(hub: &TestHub) {
    let door = Door::of(hub);
    let device = Device::create(hub, "d").await;
    let now = unix_seconds();
    for expiry in [now - 270, now, now + 1, now + 86_400 * 3_650, u64::MAX] {
        door.enter(&device.connect_with(&device.token_until(expiry))).await;
    }
    for expiry in [0, 1, now - 86_400, now - 301] {
        door.refuses(&device.connect_with(&device.token_until(expiry)), 5).await;
    }
}

scenario!(every_sdks_token_is_read);
async fn every_sdks_token_is_read(hub: &TestHub) {
    let door = Door::of(hub);
    // An id that is written differently by whoever encodes.
    let device = Device::create(hub, "d(1)").await;
    let later = unix_seconds() + 60;
    let mac = |sr: &str, se: &str| {
        let key = STANDARD.decode(device.primary.to_base64()).expect("base64");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
        STANDARD.encode(ring::hmac::sign(&key, format!("{sr}\n{se}").as_bytes()))
    };
    let encoded = |text: &str| percent_encode(text.as_bytes(), NON_ALPHANUMERIC).to_string();
    let se = later.to_string();
    let (plain, upper) = ("localhost/devices/d(1)", "localhost%2Fdevices%2Fd%281%29");
    let (lower, twice) = ("localhost%2fdevices%2fd(1)", "localhost/devices/d%281%29");
    for sr in [plain, upper, lower, twice] {
        let raw = mac(sr, &se);
        let sig = encoded(&raw);
        let lower_hex = sig.replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d");
        let tokens = [
            format!("SharedAccessSignature sr={sr}&sig={sig}&se={se}"),
            format!("SharedAccessSignature sig={sig}&se={se}&sr={sr}"),
            format!("SharedAccessSignature sr={sr}&sig={lower_hex}&skn=&se={se}"),
            format!("sharedaccesssignature SE={se}&SR={sr}&Sig={raw}&skn="),
        ];
        for token in tokens {
            door.enter(&device.connect_with(&token)).await;
        }
    }
    let (sig, raw) = (encoded(&mac(plain, &se)), mac(plain, &se));
    // Signed as one text, sent as another that means the same: it is the text that counts.
    let zero = format!("0{se}");
    for token in [
        format!("SharedAccessSignature sr={upper}&sig={sig}&se={se}"),
        format!("SharedAccessSignature sr={plain}&sig={sig}&se={zero}"),
        format!("SharedAccessSignature sr={plain}&sig={sig}&se={}", later + 1),
        // Two of a kind, one missing, none at all.
        format!("SharedAccessSignature sr={plain}&sig={sig}&se={se}&sr={plain}"),
        format!("SharedAccessSignature sr={plain}&sig={sig}"),
        format!("SharedAccessSignature sr={plain}&se={se}"),
        format!("SharedAccessSignature sig={sig}&se={se}"),
        format!("sr={plain}&sig={sig}&se={se}"),
        format!("SharedAccessSignature sr={plain}&sig=&se={se}"),
        format!("SharedAccessSignature sr={plain}&sig={}&se={se}", &raw[..raw.len() - 4]),
        format!("SharedAccessSignature sr={plain}&sig={sig}&se=-1"),
        format!("SharedAccessSignature sr={plain}&sig={sig}&se="),
        device.primary.to_base64(),
        String::new(),
    ] {
        door.refuses(&device.connect_with(&token), 5).await;
    }
    let password = Some(vec![0xff, 0xfe]);
    door.refuses(&Connect { password, ..device.connect() }, 5).await;
}

/// A registry that is away is a passing fault: 5 would take devices offline for good. It builds its
/// own split: a registry and a gateway beside the test hub.
#[tokio::test]
async fn a_registry_that_is_away_is_no_refusal() {
    let hub = TestHub::all_in_one().await;
    let device = Device::create(&hub, "d").await;
    let log = || hub.stores().events.clone();
    let registry = beside(&hub, &[Role::Registry], log(), |config| {
        // An address of its own, so that nobody takes the port while the registry is away.
        config.mesh.listen = "127.0.0.77:0".to_owned();
    })
    .await;
    let url = registry.node().to_owned();
    let listen = url.strip_prefix("http://").expect("a URL").to_owned();
    let gateway = beside(&hub, &[Role::Gateway], log(), |config| {
        config.mesh.listen = "127.0.0.1:0".to_owned();
        config.mesh.api.clone_from(&url);
        config.mesh.twins.clone_from(&url);
        config.mesh.c2d.clone_from(&url);
        config.mesh.registry = url;
    })
    .await;
    let door = door_beside(&hub, &gateway);
    let mut connected = door.enter(&device.connect()).await;
    registry.stop().await;
    let other = Device::create(&hub, "other").await;
    for _ in 0..3 {
        door.refuses(&other.connect(), 3).await;
    }
    // Nor is anybody thrown out.
    deliver(&mut connected, &device, b"still here").await;
    let registry =
        beside(&hub, &[Role::Registry], log(), |config| config.mesh.listen = listen).await;
    door.enter(&other.connect()).await;
    gateway.stop().await;
    registry.stop().await;
    hub.stop().await;
}

/// Nor is a gateway that has too much to do. Its own settings, so beside the test hub.
#[tokio::test]
async fn an_overload_is_no_refusal() {
    let hub = TestHub::all_in_one().await;
    let device = Device::create(&hub, "d").await;
    let events = hub.stores().events.clone();
    let busy = beside(&hub, &Role::ALL, events, |config| config.gateway.max_connecting = 0).await;
    door_beside(&hub, &busy).refuses(&device.connect(), 3).await;
    busy.stop().await;
    hub.stop().await;
}

/// The keys of a shared access policy, from a registry of our own over the hub's store.
async fn policy_keys(hub: &TestHub, name: &str) -> [Key; 2] {
    let handle = tokio::runtime::Handle::current();
    let mesh = Mesh::new(Default::default(), &[Role::Registry], handle);
    let context = dunlin_registry::Context {
        config: dunlin_registry::Config {
            hostnames: Vec::new(),
            twins: dunlin_model::twin::Limits::default(),
        },
        store: hub.stores().devices.clone(),
        links: DeviceLinks::new(mesh.clone(), hub.stores().presence.clone()),
        presence: hub.stores().presence.clone(),
        master_key: MasterKey::new(&[7; MasterKey::BYTES]),
    };
    let registry = dunlin_registry::build(context).await.expect("a registry");
    mesh.attach(registry.routes);
    let mut client = RegistryClient::new(mesh.channel(Role::Registry).expect("a way"));
    let request = GetPolicyRequest { name: name.to_owned() };
    let policy = client.get_policy(request).await.expect("a policy").into_inner();
    [policy.primary_key, policy.secondary_key].map(|key| Key::from_base64(&key).expect("a key"))
}

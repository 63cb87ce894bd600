//! What a device subscribes to, and what of it is there when it comes back.

use dunlin::test_hub::TestHub;
use dunlin_model::session::{QoS, Topic};
use dunlin_model::{Identity, Subscriptions};
use dunlin_runtime::Role;

use crate::mqtt_kit::{Device, Door, beside, deliver, door_beside};
use crate::raw::{Connect, DISCONNECT, Raw, suback, subscribe, unsuback, unsubscribe};

const METHODS: &str = "$iothub/methods/POST/#";
const ANSWERS: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";

/// Subscribes and is granted these.
async fn subscribed(raw: &mut Raw, filters: &[(&str, u8)]) {
    let granted: Vec<_> = filters.iter().map(|(_, qos)| (*qos).min(1)).collect();
    raw.send(&subscribe(11, filters)).await;
    raw.expect(&suback(11, &granted)).await;
}

async fn unsubscribed(raw: &mut Raw, filters: &[&str]) {
    raw.send(&unsubscribe(12, filters)).await;
    raw.expect(&unsuback(12)).await;
}

async fn leave(mut raw: Raw) {
    raw.send(&DISCONNECT).await;
    raw.expect_close().await;
}

/// What is stored of an identity's session.
async fn stored(hub: &TestHub, id: &str) -> Subscriptions {
    let id = Identity::parse(id).expect("an id");
    let stored = hub.stores().devices.identity_get(&id).await.expect("read").expect("found");
    stored.session.subscriptions
}

scenario!(what_was_subscribed_is_stored);
async fn what_was_subscribed_is_stored(hub: &TestHub) {
    let door = Door::of(hub);
    let (device, module) = (Device::create(hub, "d").await, Device::create(hub, "d/m").await);
    let mut raw = door.enter(&device.connect()).await;
    // As the C SDK does it: all in one packet, of QoS 0 and 1; and 2, which is granted as 1.
    let bound = "devices/d/messages/devicebound/#";
    subscribed(&mut raw, &[(bound, 1), (METHODS, 0), (ANSWERS, 0), (DESIRED, 2)]).await;
    let all = Subscriptions::NONE
        .with(Topic::Commands, QoS::AtLeastOnce)
        .with(Topic::Methods, QoS::AtMostOnce)
        .with(Topic::TwinAnswers, QoS::AtMostOnce)
        .with(Topic::Desired, QoS::AtLeastOnce);
    assert_eq!(stored(hub, "d").await, all, "when it is acknowledged it is durable");
    // Again, with another QoS [MQTT-3.8.4-3].
    subscribed(&mut raw, &[(METHODS, 1), (DESIRED, 0)]).await;
    let all = all.with(Topic::Methods, QoS::AtLeastOnce).with(Topic::Desired, QoS::AtMostOnce);
    assert_eq!(stored(hub, "d").await, all);
    unsubscribed(&mut raw, &[ANSWERS, "never/subscribed", "+", METHODS]).await;
    let rest = all.without(Topic::TwinAnswers).without(Topic::Methods);
    assert_eq!(stored(hub, "d").await, rest);

    let mut raw = door.enter(&module.connect()).await;
    let inputs = "devices/d/modules/m/inputs/#";
    subscribed(&mut raw, &[(inputs, 1), ("devices/d/modules/m/#", 1)]).await;
    let both = Subscriptions::NONE
        .with(Topic::Inputs, QoS::AtLeastOnce)
        .with(Topic::Module, QoS::AtLeastOnce);
    assert_eq!(stored(hub, "d/m").await, both);
    assert_eq!(stored(hub, "d").await, rest, "a module has a session of its own");
}

scenario!(session_present_is_truthful);
async fn session_present_is_truthful(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let kept = device.connect();
    let clean = Connect { clean: true, ..device.connect() };
    leave(door.enter(&kept).await).await;
    let mut raw = door.enter(&kept).await;
    subscribed(&mut raw, &[(METHODS, 0)]).await;
    leave(raw).await;
    // After DISCONNECT, after a lost connection, and after being taken over.
    door.resume(&kept).await.abandon();
    let mut former = door.resume(&kept).await;
    let mut raw = door.resume(&kept).await;
    former.expect_close().await;
    // It is there without a word from the device, and may be added to.
    subscribed(&mut raw, &[(DESIRED, 1)]).await;
    assert!(stored(hub, "d").await.get(Topic::Methods).is_some());
    unsubscribed(&mut raw, &[METHODS, DESIRED]).await;
    leave(raw).await;
    let mut raw = door.enter(&kept).await;
    subscribed(&mut raw, &[(ANSWERS, 1)]).await;
    leave(raw).await;
    // CleanSession=1 forgets what was, and keeps nothing of its own.
    let mut raw = door.enter(&clean).await;
    assert!(stored(hub, "d").await.is_empty(), "when it is let in, the old one is gone");
    subscribed(&mut raw, &[(METHODS, 1)]).await;
    deliver(&mut raw, &device, b"x").await;
    leave(raw).await;
    door.enter(&clean).await.abandon();
    let mut raw = door.enter(&kept).await;
    subscribed(&mut raw, &[(METHODS, 1)]).await;
    // A session is its identity's: made again, it has none.
    hub.client().device_delete("d", "*").await.expect("deleted");
    raw.expect_close().await;
    let again = Device::create(hub, "d").await;
    door.enter(&again.connect()).await;
}

// A SUBSCRIBE that races with the connection that takes over: either it is acknowledged and there,
// or it is neither; and a clean session that was let in has left nothing behind.
scenario!(a_takeover_knows_what_was_subscribed_last);
async fn a_takeover_knows_what_was_subscribed_last(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let clean = Connect { clean: true, ..device.connect() };
    for round in 0..60 {
        leave(door.enter(&clean).await).await;
        let mut former = door.enter(&device.connect()).await;
        let heir = if round % 2 == 0 { device.connect() } else { clean.clone() };
        let subscribing = async {
            let _ = former.try_send(&subscribe(1, &[(METHODS, 0)])).await;
            former.rest().await
        };
        let (said, accepted) = tokio::join!(subscribing, async {
            let mut raw = door.say(&heir.bytes()).await;
            let answer = raw.packet().await.expect("CONNACK");
            assert_eq!((answer[0], answer[3]), (0x20, 0), "{answer:x?}");
            (raw, answer[2] == 1)
        });
        let acknowledged = said == suback(1, &[0]);
        assert!(acknowledged || said.is_empty(), "{said:x?}");
        let (raw, present) = accepted;
        let there = stored(hub, "d").await.get(Topic::Methods).is_some();
        if heir.clean {
            assert!(!present && !there, "round {round}: it was to be forgotten");
        } else {
            assert_eq!(present, there, "round {round}");
            assert!(present || !acknowledged, "round {round}: acknowledged, and not there");
        }
        leave(raw).await;
    }
}

// At whichever gateway: the store is the cluster's.
scenario!(a_session_is_the_clusters, two_gateways);
async fn a_session_is_the_clusters(hub: &TestHub) {
    let doors: Vec<_> =
        hub.mqtt_addrs().into_iter().map(|address| Door::at(hub, address)).collect();
    let device = Device::create(hub, "d").await;
    let mut raw = doors[0].enter(&device.connect()).await;
    subscribed(&mut raw, &[(METHODS, 0)]).await;
    let mut raw = doors[1].resume(&device.connect()).await;
    unsubscribed(&mut raw, &[METHODS]).await;
    doors[0].enter(&device.connect()).await;
}

scenario!(filters_that_name_others_close);
async fn filters_that_name_others_close(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    for filter in [
        "devices/other/messages/devicebound/#",
        "devices/d/modules/m/#",
        "devices/+/messages/devicebound/#",
        "+",
        "a/#/b",
        "$iothub/twin/res#",
    ] {
        let mut raw = door.enter(&device.connect()).await;
        // Nothing of the packet counts, not even what was good.
        raw.send(&subscribe(1, &[(METHODS, 1), (filter, 1)])).await;
        raw.expect_close().await;
        assert!(stored(hub, "d").await.is_empty(), "{filter}");
    }
    door.enter(&device.connect()).await.expect_alive().await;
}

// However fast a device changes its mind, each change is answered, in order, and the last counts.
scenario!(a_flood_of_subscriptions);
async fn a_flood_of_subscriptions(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    let mut bytes = Vec::new();
    for n in 1..=500_u16 {
        bytes.extend(match n % 2 {
            0 => unsubscribe(n, &[METHODS]),
            _ => subscribe(n, &[(METHODS, 1)]),
        });
    }
    bytes.extend(subscribe(501, &[(METHODS, 0)]));
    bytes.extend(subscribe(502, &[(METHODS, 0)]));
    raw.send(&bytes).await;
    for n in 1..=500_u16 {
        match n % 2 {
            0 => raw.expect(&unsuback(n)).await,
            _ => raw.expect(&suback(n, &[1])).await,
        }
    }
    raw.expect(&[suback(501, &[0]), suback(502, &[0])].concat()).await;
    let want = Subscriptions::NONE.with(Topic::Methods, QoS::AtMostOnce);
    assert_eq!(stored(hub, "d").await, want);
    raw.expect_alive().await;
}

/// What cannot be stored is not acknowledged: the device is sent away, to try again. Its own roles,
/// so beside the test hub.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_not_acknowledged() {
    let hub = TestHub::all_in_one().await;
    let device = Device::create(&hub, "d").await;
    let events = || hub.stores().events.clone();
    let roles = [Role::Registry, Role::Twins, Role::C2d, Role::Api];
    let registry = beside(&hub, &roles, events(), |config| {
        config.mesh.listen = "127.0.0.78:0".to_owned();
        config.mesh.methods = "http://127.0.0.78:9".to_owned();
    })
    .await;
    let url = registry.node().to_owned();
    let gateway = beside(&hub, &[Role::Gateway], events(), |config| {
        config.mesh.listen = "127.0.0.1:0".to_owned();
        let mesh = &mut config.mesh;
        for role in [&mut mesh.registry, &mut mesh.api, &mut mesh.twins, &mut mesh.c2d] {
            role.clone_from(&url);
        }
    })
    .await;
    let door = door_beside(&hub, &gateway);
    let mut raw = door.enter(&Connect { clean: true, ..device.connect() }).await;
    let mut kept = door.enter(&Device::create(&hub, "kept").await.connect()).await;
    subscribed(&mut kept, &[(METHODS, 0)]).await;
    registry.stop().await;
    subscribed(&mut raw, &[(METHODS, 0)]).await;
    kept.send(&subscribe(1, &[(METHODS, 0)])).await;
    kept.expect(&suback(1, &[0])).await;
    kept.send(&subscribe(2, &[(DESIRED, 0)])).await;
    kept.expect_close().await;
    assert!(stored(&hub, "kept").await.get(Topic::Desired).is_none());
    door.refuses(&device.connect(), 3).await;
    gateway.stop().await;
    hub.stop().await;
}

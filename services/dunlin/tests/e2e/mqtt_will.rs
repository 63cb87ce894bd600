//! The will: published however a connection ends, but for DISCONNECT.

use dunlin::test_hub::TestHub;
use dunlin_runtime::clock::unix_seconds;

use crate::mqtt_kit::{Device, Door, bag, bodies, deliver, events, everything};
use crate::raw::{Connect, DISCONNECT, QOS1, Raw, Will, publish};

fn with_will(device: &Device, body: &[u8]) -> Connect {
    Connect { will: Some(device.will(body)), ..device.connect() }
}

scenario!(whatever_ends_a_connection_but_disconnect);
async fn whatever_ends_a_connection_but_disconnect(hub: &TestHub) {
    let door = Door::of(hub);

    let lost = Device::create(hub, "lost").await;
    let mut raw = door.enter(&with_will(&lost, b"lost")).await;
    deliver(&mut raw, &lost, b"last words").await;
    raw.abandon();
    check(hub, "lost", "lost").await;

    let closed = Device::create(hub, "closed").await;
    // A clean end of TLS is no DISCONNECT.
    let mut raw = door.enter(&with_will(&closed, b"closed")).await;
    deliver(&mut raw, &closed, b"last words").await;
    raw.close().await;
    check(hub, "closed", "closed").await;

    let silent = Device::create(hub, "silent").await;
    let mut raw = door.enter(&Connect { keep_alive: 1, ..with_will(&silent, b"silent") }).await;
    deliver(&mut raw, &silent, b"last words").await;
    raw.expect_close().await;
    check(hub, "silent", "silent").await;

    let expired = Device::create(hub, "expired").await;
    let password = Some(expired.token_until(unix_seconds() - 296).into_bytes());
    let mut raw = door.enter(&Connect { password, ..with_will(&expired, b"expired") }).await;
    deliver(&mut raw, &expired, b"last words").await;
    raw.expect_close().await;
    check(hub, "expired", "expired").await;

    // The later connection has a will of its own, which is not published yet.
    let twice = Device::create(hub, "twice").await;
    let mut raw = door.enter(&with_will(&twice, b"earlier")).await;
    deliver(&mut raw, &twice, b"last words").await;
    let mut later = door.enter(&with_will(&twice, b"later")).await;
    raw.expect_close().await;
    check(hub, "twice", "earlier").await;
    later.expect_alive().await;

    let violations = [
        ("topic", publish(QOS1, "no/such/topic", 1, b"x")),
        ("qos", publish(0x04, "devices/qos/messages/events/", 1, b"x")),
        ("connect", twice.connect().bytes()),
        ("malformed", vec![0xc1, 0]),
        ("disconnect", vec![0xe1, 0]),
        ("server", vec![0xd0, 0]),
    ];
    for (id, violation) in violations {
        let device = Device::create(hub, id).await;
        let mut raw = door.enter(&with_will(&device, id.as_bytes())).await;
        deliver(&mut raw, &device, b"last words").await;
        raw.send(&violation).await;
        raw.expect_close().await;
        check(hub, id, id).await;
    }
}

/// Two messages are there: the last words, and the will behind them.
#[track_caller]
fn check<'a>(hub: &'a TestHub, id: &'a str, will: &'a str) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let events = events(hub, id, 2).await;
        assert_eq!(bodies(&events), ["last words", will], "of {id}, at {caller}");
        assert_eq!(bag(&events[0]), [""; 0], "of {id}, at {caller}");
        assert_eq!(bag(&events[1]), ["iothub-MessageType=Will"], "of {id}, at {caller}");
    }
}

scenario!(disconnect_discards_it);
async fn disconnect_discards_it(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&with_will(&device, b"discarded")).await;
    deliver(&mut raw, &device, b"one").await;
    raw.send(&DISCONNECT).await;
    raw.expect_close().await;
    // Nor is one that is lost published again by a connection that comes after.
    door.enter(&with_will(&device, b"two")).await.abandon();
    events(hub, "d", 2).await;
    door.enter(&device.connect()).await.close().await;
    assert_eq!(bodies(&everything(hub, &door, &device).await), ["one", "two"]);
}

scenario!(none_without_the_flag);
async fn none_without_the_flag(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let end = async |mut raw: Raw| {
        raw.send(&[0xf0, 0]).await;
        raw.expect_close().await;
    };
    end(door.enter(&device.connect()).await).await;
    // A CONNECT that is refused leaves no will behind.
    let password = Some(b"SharedAccessSignature sr=localhost&sig=AAAA&se=1".to_vec());
    door.refuses(&Connect { password, ..with_will(&device, b"no") }, 5).await;
    assert_eq!(bodies(&everything(hub, &door, &device).await), [""; 0]);
}

scenario!(retain_and_properties);
async fn retain_and_properties(hub: &TestHub) {
    let door = Door::of(hub);
    for id in ["d", "d/m"] {
        let device = Device::create(hub, id).await;
        let topic = device.topic("%24.ct=text%2Fplain&why=lost/");
        let will = Will { topic, retain: true, qos: 0, ..device.will(b"\0\xff") };
        door.enter(&Connect { will: Some(will), ..device.connect() }).await.abandon();
        // An empty will is one.
        let count = if id == "d" { 1 } else { 3 };
        events(hub, "d", count).await;
        door.enter(&with_will(&device, b"")).await.abandon();
        events(hub, "d", count + 1).await;
    }
    for two in events(hub, "d", 4).await.chunks(2) {
        assert_eq!(two[0].body, b"\0\xff");
        let want = [
            "$.content-type=text/plain",
            "why=lost",
            "mqtt-retain=true",
            "iothub-MessageType=Will",
        ];
        assert_eq!(bag(&two[0]), want);
        assert_eq!(two[1].body, b"");
    }
}

scenario!(only_the_hubs_own_kind_is_taken);
async fn only_the_hubs_own_kind_is_taken(hub: &TestHub) {
    let door = Door::of(hub);
    let device = Device::create(hub, "d").await;
    let module = Device::create(hub, "d/m").await;
    Device::create(hub, "other").await;
    let refused = |device: &Device, topic: &str, qos| {
        let will = Will { topic: topic.to_owned(), qos, ..device.will(b"no") };
        Connect { will: Some(will), ..device.connect() }
    };
    for topic in [
        "some/topic",
        "",
        "devices/other/messages/events/",
        "devices/d/modules/m/messages/events/",
        "devices/d/messages/devicebound/",
        "devices/d/messages/eventsx/",
        "$iothub/twin/GET/?$rid=1",
    ] {
        door.refuses(&refused(&device, topic, 1), 5).await;
    }
    door.refuses(&refused(&module, &device.topic(""), 1), 5).await;
    door.refuses(&refused(&device, &device.topic(""), 2), 5).await;
    assert_eq!(bodies(&everything(hub, &door, &device).await), [""; 0]);
}

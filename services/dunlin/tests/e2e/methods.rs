//! Direct methods, from a back end to a device and back: how a call ends, and what passes.

use dunlin::client::Client;
use dunlin::test_hub::TestHub;
use tokio::task::JoinSet;

use crate::method_kit::{
    Called, METHODS, answer, answer_topic, call, called, clean, ended, invoke, listening,
    take_methods,
};
use crate::mqtt_kit::{Device, Door};
use crate::raw::{DISCONNECT, QOS1, Raw, puback, publish, unsuback, unsubscribe, within};

/// How far a device has come.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Stage {
    Away,
    Connected,
    Subscribed,
}

/// What a device does when it is called.
#[derive(Clone, Copy)]
enum Then {
    Answers,
    KeepsSilent,
    SaysGoodbye,
    EndsTls,
    IsDisabled,
}

/// A call of a device, what that does meanwhile, and how the call ends.
struct Case {
    before: Stage,
    meanwhile: Stage,
    then: Option<Then>,
    /// `connectTimeoutInSeconds`.
    connect: u32,
    want: Result<&'static str, &'static str>,
}

const ANSWERED: Result<&str, &str> = Ok(r#"{"status":200,"payload":{"all":"well"}}"#);
const NOT_ONLINE: Result<&str, &str> = Err("DeviceNotOnline");
const TIMEOUT: Result<&str, &str> = Err("GatewayTimeout");
const GONE: Result<&str, &str> = Err("DeviceConnectionClosedRemotely");

fn cases() -> Vec<Case> {
    use Stage::{Away, Connected, Subscribed};
    use Then::{Answers, EndsTls, IsDisabled, KeepsSilent, SaysGoodbye};
    let case =
        |before, meanwhile, then, connect, want| Case { before, meanwhile, then, connect, want };
    vec![
        case(Away, Away, None, 0, NOT_ONLINE),
        case(Away, Away, None, 1, NOT_ONLINE),
        case(Connected, Connected, None, 0, NOT_ONLINE),
        case(Connected, Connected, None, 1, NOT_ONLINE),
        case(Subscribed, Subscribed, Some(Answers), 0, ANSWERED),
        case(Subscribed, Subscribed, Some(Answers), 60, ANSWERED),
        case(Subscribed, Subscribed, Some(KeepsSilent), 0, TIMEOUT),
        case(Subscribed, Subscribed, Some(KeepsSilent), 60, TIMEOUT),
        case(Subscribed, Subscribed, Some(SaysGoodbye), 0, GONE),
        case(Subscribed, Subscribed, Some(EndsTls), 60, GONE),
        case(Subscribed, Subscribed, Some(IsDisabled), 0, GONE),
        case(Away, Connected, None, 2, NOT_ONLINE),
        case(Away, Subscribed, Some(Answers), 60, ANSWERED),
        case(Away, Subscribed, Some(KeepsSilent), 60, TIMEOUT),
        case(Away, Subscribed, Some(SaysGoodbye), 60, GONE),
        case(Connected, Subscribed, Some(Answers), 60, ANSWERED),
    ]
}

async fn advance(raw: Option<Raw>, door: &Door, device: &Device, to: Stage) -> Option<Raw> {
    match (raw, to) {
        (None, Stage::Away) => None,
        (None, Stage::Connected) => Some(door.enter(&clean(device)).await),
        (None, Stage::Subscribed) => Some(listening(door, device).await),
        (Some(mut raw), to) => {
            if to == Stage::Subscribed {
                take_methods(&mut raw).await;
            }
            Some(raw)
        }
    }
}

async fn run(case: Case, client: Client, door: Door, device: Device) {
    let mut raw = advance(None, &door, &device, case.before).await;
    let call = invoke(&client, &device.id, call("m", case.connect, "[]"));
    if case.meanwhile > case.before {
        // The call is under way by the time a later one is through.
        client.device_get(&device.id).await.expect("found");
        raw = advance(raw, &door, &device, case.meanwhile).await;
    }
    if let (Some(then), Some(raw)) = (case.then, &mut raw) {
        let Called { method, rid, payload } = called(raw).await;
        assert_eq!((method.as_str(), payload.as_str()), ("m", "[]"));
        match then {
            Then::Answers => raw.send(&answer(200, &rid, r#"{"all":"well"}"#)).await,
            Then::KeepsSilent => {}
            Then::SaysGoodbye => raw.send(&DISCONNECT).await,
            Then::EndsTls => raw.end().await,
            Then::IsDisabled => {
                let mut body = client.device_get(&device.id).await.expect("found");
                body["status"] = "disabled".into();
                client.device_put(&device.id, &body, Some("*")).await.expect("replaced");
            }
        }
    }
    let ended = ended(call).await;
    let got = ended.as_ref().map(String::as_str).map_err(String::as_str);
    assert_eq!(got, case.want, "{}", device.id);
    // Nothing else has come: it was called once, or not at all.
    match (raw, case.want == GONE) {
        (Some(mut raw), true) => raw.expect_close().await,
        (Some(mut raw), false) => raw.expect_alive().await,
        (None, _) => {}
    }
}

scenario!(every_way_a_call_can_end);
async fn every_way_a_call_can_end(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let mut running = JoinSet::new();
    for (number, case) in cases().into_iter().enumerate() {
        let device = Device::create(hub, &format!("case-{number}")).await;
        running.spawn(run(case, client.clone(), door.clone(), device));
    }
    while let Some(ran) = running.join_next().await {
        ran.expect("a case");
    }
    for (id, want) in [("stranger", "DeviceNotFound"), ("case-0/stranger", "ModuleNotFound")] {
        assert_eq!(ended(invoke(&client, id, call("m", 60, "[]"))).await, Err(want.to_owned()));
    }
}

fn answered(payload: &str) -> Result<String, String> {
    Ok(format!(r#"{{"status":200,"payload":{payload}}}"#))
}

scenario!(an_answer_counts_once_and_in_time);
async fn an_answer_counts_once_and_in_time(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let device = Device::create(hub, "d").await;
    let mut raw = listening(&door, &device).await;
    let first = invoke(&client, "d", call("first", 0, "1"));
    let late = called(&mut raw).await.rid;
    assert_eq!(ended(first).await, Err("GatewayTimeout".to_owned()));
    let second = invoke(&client, "d", call("second", 0, "2"));
    let rid = called(&mut raw).await.rid;
    assert_ne!(rid, late);
    // Too late, of nobody, and of QoS 1, which is acknowledged whoever wants it.
    raw.send(&answer(200, &late, "1")).await;
    raw.send(&answer(200, "7bc1b5d0-0000-0000-0000-000000000000", "1")).await;
    raw.send(&publish(QOS1, &answer_topic(200, &late), 9, b"1")).await;
    raw.expect(&puback(9)).await;
    raw.send(&publish(QOS1, &answer_topic(200, &rid), 10, b"2")).await;
    raw.expect(&puback(10)).await;
    assert_eq!(ended(second).await, answered("2"));
    // Again, while another call is open.
    let third = invoke(&client, "d", call("third", 0, "3"));
    let last = called(&mut raw).await.rid;
    raw.send(&answer(200, &rid, "2")).await;
    raw.send(&answer(200, &last, "3")).await;
    raw.send(&answer(500, &last, "4")).await;
    assert_eq!(ended(third).await, answered("3"));
    raw.expect_alive().await;
}

scenario!(an_answer_counts_on_the_connection_that_was_called);
async fn an_answer_counts_on_the_connection_that_was_called(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let device = Device::create(hub, "d").await;
    let module = Device::create(hub, "d/m").await;
    let other = Device::create(hub, "other").await;
    let mut raw = listening(&door, &device).await;
    let call = invoke(&client, "d", call("m", 0, "[]"));
    let rid = called(&mut raw).await.rid;
    for stranger in [&module, &other] {
        let mut stranger = listening(&door, stranger).await;
        stranger.send(&answer(200, &rid, r#""forged""#)).await;
        // Its answer has been dealt with when its ping has.
        stranger.expect_alive().await;
    }
    raw.send(&answer(200, &rid, r#""mine""#)).await;
    assert_eq!(ended(call).await, answered(r#""mine""#));
}

// Calls go to the gateway that holds the device, and end when the device leaves it.
scenario!(across_gateways, two_gateways);
async fn across_gateways(hub: &TestHub) {
    let client = hub.client();
    let doors: Vec<_> =
        hub.mqtt_addrs().into_iter().map(|address| Door::at(hub, address)).collect();
    let device = Device::create(hub, "d").await;
    let mut former = listening(&doors[0], &device).await;
    for n in 1..=6 {
        let open = invoke(&client, "d", call("m", 0, "[]"));
        let rid = called(&mut former).await.rid;
        let mut later = listening(&doors[n % 2], &device).await;
        assert_eq!(ended(open).await, Err("DeviceConnectionClosedRemotely".to_owned()));
        former.expect_close().await;
        later.send(&answer(200, &rid, "1")).await;
        let open = invoke(&client, "d", call("m", 0, "[]"));
        let rid = called(&mut later).await.rid;
        later.send(&answer(200, &rid, "2")).await;
        assert_eq!(ended(open).await, answered("2"));
        former = later;
    }
}

scenario!(a_device_and_its_modules_are_called_apart);
async fn a_device_and_its_modules_are_called_apart(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let mut raws = Vec::new();
    let ids = ["d", "d/m", "d/n"];
    for id in ids {
        let device = Device::create(hub, id).await;
        raws.push(listening(&door, &device).await);
    }
    for (n, id) in ids.into_iter().enumerate() {
        let call = invoke(&client, id, call("m", 0, "[]"));
        let rid = called(&mut raws[n]).await.rid;
        raws[n].send(&answer(200, &rid, n.to_string())).await;
        assert_eq!(ended(call).await, answered(&n.to_string()));
        for raw in &mut raws {
            raw.expect_alive().await;
        }
    }
    // A device that is there does not stand in for its module.
    Device::create(hub, "d/away").await;
    let call = invoke(&client, "d/away", call("m", 0, "[]"));
    assert_eq!(ended(call).await, Err("DeviceNotOnline".to_owned()));
}

scenario!(a_hundred_calls_answered_in_reverse);
async fn a_hundred_calls_answered_in_reverse(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let device = Device::create(hub, "d").await;
    let mut raw = listening(&door, &device).await;
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let body = format!(r#"{{"methodName":"m","payload":{n}}}"#);
            invoke(&client, "d", body)
        })
        .collect();
    let mut open = Vec::new();
    while open.len() < calls.len() {
        open.push(called(&mut raw).await);
    }
    for Called { rid, payload, .. } in open.iter().rev() {
        raw.send(&answer(200, rid, payload)).await;
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(ended(call).await, answered(&n.to_string()));
    }
    raw.expect_alive().await;
}

scenario!(a_caller_that_goes_away);
async fn a_caller_that_goes_away(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let mut raw = listening(&door, &Device::create(hub, "d").await).await;
    // All that a device may have open, and none would end by itself in time.
    let patient = r#"{"methodName":"m","responseTimeoutInSeconds":60,"payload":1}"#;
    let open: Vec<_> = (0..100).map(|_| invoke(&client, "d", patient)).collect();
    let mut rids = Vec::new();
    while rids.len() < open.len() {
        rids.push(called(&mut raw).await.rid);
    }
    let one_more = invoke(&client, "d", patient);
    assert_eq!(ended(one_more).await, Err("DeviceMaximumInflightMethodExceeded".to_owned()));
    for call in open {
        call.abort();
        assert!(call.await.expect_err("aborted").is_cancelled());
    }
    // The device has room again when the hub has seen them go.
    let (rid, call) = within("room", async {
        loop {
            let mut call = invoke(&client, "d", call("m", 0, "2"));
            tokio::select! {
                sent = called(&mut raw) => break (sent.rid, call),
                ended = &mut call => {
                    let full = Err("DeviceMaximumInflightMethodExceeded".to_owned());
                    assert_eq!(ended.expect("a task"), full);
                }
            }
        }
    })
    .await;
    for late in &rids {
        raw.send(&answer(200, late, "1")).await;
    }
    raw.send(&answer(200, &rid, "2")).await;
    assert_eq!(ended(call).await, answered("2"));
    raw.expect_alive().await;
}

// Official SDKs do not subscribe again after they renewed their token.
scenario!(a_device_that_comes_back_takes_methods);
async fn a_device_that_comes_back_takes_methods(hub: &TestHub) {
    let (door, client) = (Door::of(hub), hub.client());
    let device = Device::create(hub, "d").await;
    let mut raw = door.enter(&device.connect()).await;
    take_methods(&mut raw).await;
    raw.send(&DISCONNECT).await;
    raw.expect_close().await;
    let away = ended(invoke(&client, "d", call("m", 0, "1"))).await;
    assert_eq!(away, Err("DeviceNotOnline".to_owned()));
    let mut raw = door.resume(&device.connect()).await;
    let open = invoke(&client, "d", call("m", 0, "1"));
    let rid = called(&mut raw).await.rid;
    raw.send(&answer(200, &rid, "2")).await;
    assert_eq!(ended(open).await, answered("2"));
    raw.send(&unsubscribe(2, &[METHODS])).await;
    raw.expect(&unsuback(2)).await;
    let deaf = ended(invoke(&client, "d", call("m", 0, "1"))).await;
    assert_eq!(deaf, Err("DeviceNotOnline".to_owned()));
}

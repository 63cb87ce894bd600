//! A hub that is told to stop: what is in flight comes to its end, and who comes is sent away with
//! a code that SDKs take for passing.

use dunlin::test_hub::{Setup, TestHub};
use dunlin_runtime::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hostile_kit::{Answer, header};
use crate::hostile_web::{VERSION, Web};
use crate::kill::{History, publish_while, read_back};
use crate::mqtt_kit::{Device, Door, beside, bodies, door_beside, events};
use crate::mqtt_log::{Faults, FaultyLog};
use crate::process::Hub;
use crate::raw::{Raw, connack, puback, tls_over, within};

/// SIGTERM while devices publish: what was acknowledged is in the log of the next hub, once.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut history = History::default();
    let started = jiff::Timestamp::now();
    let hub = Hub::start(folder.path()).await;
    let mut devices = Vec::new();
    for n in 0..3 {
        devices.push(hub.create_device(&format!("d{n}")).await);
    }
    for (device, sent) in publish_while(hub, &devices, 0, Hub::stop).await {
        history.acked.entry(device).or_default().extend(sent);
    }
    let hub = Hub::start(folder.path()).await;
    read_back(&hub, started, &mut history).await;
    hub.stop().await;
    let verdict = history.verdict();
    assert!(verdict.acked > 0);
    assert_eq!((verdict.lost, verdict.duplicates, verdict.disordered), (0, 0, 0), "{verdict:?}");
}

/// Messages that the hub has taken and not yet made durable are waited for.
#[tokio::test(flavor = "multi_thread")]
async fn messages_in_flight_are_acknowledged() {
    let hub = TestHub::all_in_one().await;
    let log = std::sync::Arc::new(FaultyLog::over(&hub.stores().events, Faults::default()));
    let stopping = beside(&hub, &Role::ALL, log.clone(), |_| {}).await;
    let door = door_beside(&hub, &stopping);
    let (busy, idle) = (Device::create(&hub, "busy").await, Device::create(&hub, "idle").await);
    let mut connected = door.enter(&busy.connect()).await;
    let mut unaware = door.enter(&idle.connect()).await;
    log.withhold(true);
    for packet_id in 1..=50 {
        connected.send(&busy.message(packet_id, packet_id.to_string().as_bytes())).await;
    }
    log.when(|counts| counts.accepted == 50).await;
    let stopped = tokio::spawn(stopping.stop());
    // Who has nothing in flight goes at once; from here on the hub is known to be draining.
    unaware.expect_close().await;
    log.withhold(false);
    for packet_id in 1..=50 {
        connected.expect(&puback(packet_id)).await;
    }
    connected.expect_close().await;
    stopped.await.expect("stopped");
    let stored = bodies(&events(&hub, "busy", 50).await);
    assert_eq!(stored, (1..=50).map(|n| n.to_string()).collect::<Vec<_>>());
    hub.stop().await;
}

/// Each is served until its turn to go, while nobody new is let in.
#[tokio::test(flavor = "multi_thread")]
async fn devices_are_sent_away_one_after_the_other() {
    let hub = TestHub::all_in_one().await;
    let stopping = beside(&hub, &Role::ALL, hub.stores().events.clone(), |config| {
        config.gateway.drain_per_second = 1;
        // One thread: they go in the order of their coming.
        config.gateway.workers = 1;
    })
    .await;
    stopping.announce();
    let (door, admin) = (door_beside(&hub, &stopping), stopping.admin);
    let device = Device::create(&hub, "first").await;
    let mut first = door.enter(&device.connect()).await;
    // So many that the last one's turn would come after every deadline of this test.
    let mut others = Vec::new();
    for n in 0..60 {
        let device = Device::create(&hub, &format!("d{n}")).await;
        others.push((door.enter(&device.connect()).await, device));
    }
    let stopped = tokio::spawn(stopping.stop());
    first.expect_close().await;
    let (mut last, device) = others.pop().expect("the last");
    last.send(&device.message(1, b"still served")).await;
    last.expect(&puback(1)).await;
    // Nobody new comes in, and whoever balances the load is told.
    let refused = TcpStream::connect(door.address).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let http = dunlin::client::http().build().expect("a client");
    let get = async |path: &str| {
        let response = http.get(format!("http://{admin}{path}")).send().await;
        response.expect("answered").status().as_u16()
    };
    assert_eq!((get("/readyz").await, get("/livez").await), (503, 200));
    // Who goes by himself is not waited for.
    last.close().await;
    for (other, _) in others {
        other.close().await;
    }
    within("the end", stopped).await.expect("stopped");
    assert_eq!(bodies(&events(&hub, &device.id, 1).await), ["still served"]);
    hub.stop().await;
}

in_every_way!(
    who_is_on_the_way_gets_an_answer,
    super::super::who_is_on_the_way_gets_an_answer,
    all_in_one,
    split
);
async fn who_is_on_the_way_gets_an_answer(setup: Setup) {
    let hub = TestHub::start(setup).await;
    let (door, web) = (Door::of(&hub), Web::new(&hub));
    let device = Device::create(&hub, "d").await;
    // TCP and nothing more; TLS and no CONNECT; half a CONNECT.
    let tcp = TcpStream::connect(door.address).await.expect("a connection");
    let mut silent = door.open().await;
    let connect = device.connect().bytes();
    let (first, rest) = connect.split_at(connect.len() / 2);
    let mut half = door.say(first).await;
    // Accepted in order: when a later one is served, the others are no longer the kernel's. The
    // threads take turns, so two are.
    for _ in 0..2 {
        door.enter(&device.connect()).await;
    }
    // A request that lacks the end of its body; a connection between two; a stream.
    let put = web.with_body("PUT", &format!("/devices/new?{VERSION}"), br#"{"deviceId":"new"}"#);
    let (most, last) = put.split_at(put.len() - 1);
    let put = String::from_utf8_lossy(most).replace("Connection: close\r\n", "");
    let mut request = web.open().await;
    request.write_all(put.as_bytes()).await.expect("sent");
    let mut idle = web.open().await;
    let get = format!("GET /devices/d?{VERSION} HTTP/1.1\r\nAuthorization: {}\r\n\r\n", web.token);
    idle.write_all(get.as_bytes()).await.expect("sent");
    assert_eq!(answer(&mut idle).await.status, 200);
    let mut stream = hub.client().events("from=end").await.expect("a stream");

    let stopped = tokio::spawn(hub.stop());
    let end = within("the end of the stream", stream.next()).await;
    assert!(end.expect("a clean end").is_none());
    let end = within("the end of the idle one", idle.read(&mut [0; 1])).await;
    assert_eq!(end.expect("a clean end"), 0);
    half.send(rest).await;
    silent.send(&connect).await;
    let late = within("TLS", tls_over(tcp, &door.tls)).await.expect("TLS");
    let mut late = Raw::over(late);
    late.send(&connect).await;
    for mut raw in [half, silent, late] {
        raw.expect(&connack(3)).await;
        raw.expect_close().await;
    }
    request.write_all(last).await.expect("sent");
    let answer = answer(&mut request).await;
    assert_eq!((answer.status, header(&answer.head, "connection")), (200, Some("close")));
    let end = within("the close", request.read(&mut [0; 1])).await;
    assert_eq!(end.expect("a clean end"), 0);
    stopped.await.expect("stopped");
}

async fn answer(stream: &mut (impl AsyncReadExt + Unpin)) -> Answer {
    let mut came = Vec::new();
    within("an answer", async {
        loop {
            if let Some(answer) = Answer::take(&mut came) {
                return answer;
            }
            let read = stream.read_buf(&mut came).await.expect("an answer");
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&came));
        }
    })
    .await
}

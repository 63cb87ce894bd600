//! One connection per identity: a later CONNECT wins, at whichever gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dunlin::test_hub::TestHub;
use dunlin_model::Identity;
use dunlin_runtime::Shutdown;

use crate::mqtt_kit::{Device, Door, bodies, deliver, events, everything, set_status};
use crate::raw::{self, PINGREQ, PINGRESP, Raw, connack, puback};

scenario!(the_later_connection_wins);
async fn the_later_connection_wins(hub: &TestHub) {
    let door = Door::of(hub);
    take_over(hub, &door, &door).await;
}

scenario!(from_tls_to_websocket);
async fn from_tls_to_websocket(hub: &TestHub) {
    take_over(hub, &Door::of(hub), &Door::websocket(hub)).await;
}

scenario!(from_websocket_to_tls);
async fn from_websocket_to_tls(hub: &TestHub) {
    take_over(hub, &Door::websocket(hub), &Door::of(hub)).await;
}

// With two gateways: the earlier connection is on another one than the later.
scenario!(across_gateways, two_gateways);
async fn across_gateways(hub: &TestHub) {
    let doors: Vec<_> =
        hub.mqtt_addrs().into_iter().map(|address| Door::at(hub, address)).collect();
    take_over(hub, &doors[0], &doors[1]).await;
    // And to and fro.
    let device = Device::create(hub, "restless").await;
    let mut former = doors[0].enter(&device.connect()).await;
    for n in 1..=20 {
        let mut later = doors[n % 2].enter(&device.connect()).await;
        former.expect_close().await;
        deliver(&mut later, &device, n.to_string().as_bytes()).await;
        former = later;
    }
    let want: Vec<_> = (1..=20).map(|n| n.to_string()).collect();
    assert_eq!(bodies(&events(hub, "restless", 20).await), want);
}

async fn take_over(hub: &TestHub, here: &Door, there: &Door) {
    let device = Device::create(hub, "d").await;
    let module = Device::create(hub, "d/m").await;
    let mut module_raw = here.enter(&module.connect()).await;
    let mut former = here.enter(&device.connect()).await;
    // Many are on their way when the later connection comes.
    let sent: Vec<u8> =
        (1..=300).flat_map(|n: u16| device.message(n, n.to_string().as_bytes())).collect();
    former.send(&sent).await;
    for n in 1..=100 {
        former.expect(&puback(n)).await;
    }
    let mut later = there.enter(&device.connect()).await;
    // It takes no more from here on: this is too late.
    let _ = former.try_send(&device.message(999, b"too late")).await;
    deliver(&mut later, &device, b"later").await;

    let rest = former.rest().await;
    let acked = 100 + rest.len() / 4;
    let want: Vec<u8> = (101..=300).flat_map(puback).collect();
    assert!(want.starts_with(&rest), "acknowledged out of order: {rest:x?}");

    let stored = bodies(&everything(hub, there, &device).await);
    let at = stored.iter().position(|body| body == "later").expect("the later's message");
    let before: Vec<_> = (1..=at).map(|n| n.to_string()).collect();
    assert_eq!(stored[..at], before, "the former's messages come whole and in order");
    assert!(at >= acked, "{acked} were acknowledged, {at} are there");
    assert_eq!(stored.len(), at + 1, "nothing comes behind the later connection's: {stored:?}");
    // A device and its modules are identities of their own.
    deliver(&mut module_raw, &module, b"x").await;
}

scenario!(of_many_at_once_one_is_left);
async fn of_many_at_once_one_is_left(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (door, connect) = (door.clone(), device.connect().bytes());
        tries.spawn(async move {
            let mut raw = door.say(&connect).await;
            // The loser of a race is told to come again, or is closed once it is in.
            let answer = raw.packet().await.expect("an answer");
            assert!([connack(0), connack(3)].contains(&answer[..].try_into().expect("CONNACK")));
            (raw, answer[3] == 0)
        });
    }
    let mut accepted = Vec::new();
    while let Some(tried) = tries.join_next().await {
        if let (raw, true) = tried.expect("an answer") {
            accepted.push(raw);
        }
    }
    // Whoever comes after all of them displaces whoever is left.
    let mut last = door.enter(&device.connect()).await;
    for mut raw in accepted {
        raw.expect_close().await;
    }
    deliver(&mut last, &device, b"x").await;
    assert_eq!(bodies(&events(hub, "d", 1).await), ["x"]);
}

// Whoever is left of those that dial at once is known to be there: it can be called, and be revoked.
scenario!(who_is_left_of_many_is_the_holder);
async fn who_is_left_of_many_is_the_holder(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let id = Identity::parse("d").expect("an id");
    for round in 0..25 {
        let mut dials = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (door, connect) = (door.clone(), device.connect().bytes());
            dials.spawn(async move {
                let mut raw = door.say(&connect).await;
                raw.packet().await.is_ok_and(|answer| answer == connack(0)).then_some(raw)
            });
        }
        let mut left = Vec::new();
        for mut raw in dials.join_all().await.into_iter().flatten() {
            if raw.try_send(&PINGREQ).await.is_ok()
                && raw.packet().await.is_ok_and(|answer| answer == PINGRESP)
            {
                left.push(raw);
            }
        }
        // All may have displaced one another.
        let holder = hub.stores().presence.holder(&id).await.expect("presence");
        assert!(left.len() <= 1, "round {round}");
        assert!(left.is_empty() || holder.is_some(), "round {round}: connected, and not known");
    }
    let mut last = door.enter(&device.connect()).await;
    set_status(hub, "d", "disabled").await;
    last.expect_close().await;
}

scenario!(a_displaced_connection_does_not_displace_its_heir);
async fn a_displaced_connection_does_not_displace_its_heir(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut former: Raw = door.enter(&device.connect()).await;
    for _ in 0..10 {
        let later = door.enter(&device.connect()).await;
        // What the former gives up on its way out must not be the later's.
        former.expect_close().await;
        former = later;
    }
    former.expect_alive().await;
    former.send(&raw::DISCONNECT).await;
    former.expect_close().await;
    let mut again = door.enter(&device.connect()).await;
    deliver(&mut again, &device, b"x").await;
}

// Two clients that each come back at once when they are displaced, at a gateway each. A client owns
// the identity from its CONNACK to the end of its connection: for more than a second there is never
// a second owner (design, what reliability must show, R3).
scenario!(two_clients_swap_a_thousand_times, two_gateways);
async fn two_clients_swap_a_thousand_times(hub: &TestHub) {
    let device = Device::create(hub, "d").await;
    let swaps = Arc::new(AtomicU32::new(0));
    let over = Shutdown::new();
    let contenders: Vec<_> = hub
        .mqtt_addrs()
        .into_iter()
        .map(|address| {
            let (door, device) = (Door::at(hub, address), device.clone());
            tokio::spawn(contend(door, device, swaps.clone(), over.clone()))
        })
        .collect();
    let mut owned = Vec::new();
    for contender in contenders {
        owned.push(contender.await.expect("a contender"));
    }
    let mut longest = Duration::ZERO;
    for (from, to) in &owned[0] {
        for (other_from, other_to) in &owned[1] {
            let both = (*to.min(other_to)).saturating_duration_since(*from.max(other_from));
            longest = longest.max(both);
        }
    }
    assert!(longest < Duration::from_secs(1), "two owners for {longest:?}");
    assert!(owned.iter().all(|times| times.len() > 100), "they took turns");
}

/// Connects again and again; when each connection was its, until a thousand were had.
async fn contend(
    door: Door,
    device: Device,
    swaps: Arc<AtomicU32>,
    over: Shutdown,
) -> Vec<(Instant, Instant)> {
    let mut owned = Vec::new();
    while !over.is_cancelled() {
        let mut raw = door.say(&device.connect().bytes()).await;
        match raw.packet().await {
            Ok(answer) if answer == connack(0) => {}
            // The other came in between: so it is told, or just displaced.
            Ok(answer) => {
                assert_eq!(answer, connack(3));
                continue;
            }
            Err(_) => continue,
        }
        let from = Instant::now();
        if swaps.fetch_add(1, Ordering::Relaxed) >= 1_000 {
            over.cancel();
        }
        tokio::select! {
            rest = raw.rest() => assert!(rest.is_empty(), "said {rest:x?}"),
            () = over.cancelled() => {}
        }
        owned.push((from, Instant::now()));
    }
    owned
}

//! How a connection lives and ends: keep-alive, pings, DISCONNECT, a token that runs out.

use std::sync::Arc;
use std::time::Duration;

use dunlin::test_hub::TestHub;
use dunlin_runtime::Role;
use dunlin_runtime::clock::unix_seconds;

use crate::mqtt_kit::{Device, Door, beside, bodies, deliver, door_beside, everything};
use crate::mqtt_log::{Faults, FaultyLog};
use crate::raw::{self, Connect, DISCONNECT, PINGREQ, PINGRESP, QOS1, Raw, puback, publish};

scenario!(silence_closes);
async fn silence_closes(hub: &TestHub) {
    let door = Door::of(hub);
    let keep_alive = |keep_alive, device: &Device| Connect { keep_alive, ..device.connect() };
    let unlimited = Device::create(hub, "unlimited").await;
    let mut unlimited = door.enter(&keep_alive(0, &unlimited)).await;
    let pinging = Device::create(hub, "pinging").await;
    let mut pinging = door.enter(&keep_alive(4, &pinging)).await;
    let talking = Device::create(hub, "talking").await;
    let mut talking_raw = door.enter(&keep_alive(4, &talking)).await;

    // Silent ones, one after the other, for longer than those who speak may be silent: they are kept
    // up by what they say. They have 6 s, which a busy machine may take over setting this up.
    let silence = async {
        for id in ["one", "two", "three", "four", "five"] {
            let device = Device::create(hub, id).await;
            door.enter(&keep_alive(1, &device)).await.expect_close().await;
        }
    };
    let mut beat = tokio::time::interval(Duration::from_millis(300));
    tokio::pin!(silence);
    let mut beats = 0;
    loop {
        tokio::select! {
            () = &mut silence => break,
            _ = beat.tick() => {
                beats += 1;
                pinging.expect_alive().await;
                // Any packet will do, and QoS 0 has no answer.
                talking_raw.send(&publish(0, &talking.topic(""), 0, b"x")).await;
            }
        }
    }
    assert!(beats > 20, "silence was ended at once");
    pinging.expect_alive().await;
    talking_raw.expect_alive().await;
    unlimited.expect_alive().await;
}

/// Completions are withheld, so that acknowledgements wait: pings do not wait with them.
#[tokio::test]
async fn pings_are_answered_ahead_of_acks() {
    let hub = TestHub::all_in_one().await;
    let device = Device::create(&hub, "d").await;
    let log = Arc::new(FaultyLog::over(&hub.stores().events, Faults::default()));
    log.withhold(true);
    let slow = beside(&hub, &Role::ALL, log.clone(), |_| {}).await;
    let mut raw = door_beside(&hub, &slow).enter(&device.connect()).await;
    for n in 1..=50 {
        raw.send(&[device.message(n, b"x"), PINGREQ.to_vec()].concat()).await;
        raw.expect(&PINGRESP).await;
    }
    log.withhold(false);
    for n in 1..=50 {
        raw.expect(&puback(n)).await;
    }
    raw.expect_alive().await;
    slow.stop().await;
    hub.stop().await;
}

scenario!(nothing_after_disconnect_is_processed);
async fn nothing_after_disconnect_is_processed(hub: &TestHub) {
    let (door, device) = (Door::of(hub), Device::create(hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    deliver(&mut raw, &device, b"before").await;
    let bytes = [DISCONNECT.to_vec(), device.message(2, b"after"), PINGREQ.to_vec()].concat();
    raw.send(&bytes).await;
    raw.expect_close().await;
    assert_eq!(bodies(&everything(hub, &door, &device).await), ["before"]);
}

scenario!(a_token_that_runs_out_ends_the_connection);
async fn a_token_that_runs_out_ends_the_connection(hub: &TestHub) {
    let door = Door::of(hub);
    let lasting = Device::create(hub, "lasting").await;
    let mut lasting_raw = door.enter(&lasting.connect()).await;
    // The skew of 300 s runs out in a few seconds.
    let ending = |device: &Device| device.connect_with(&device.token_until(unix_seconds() - 296));
    let silent = Device::create(hub, "silent").await;
    let mut silent = door.enter(&ending(&silent)).await;
    let busy = Device::create(hub, "busy").await;
    let mut busy_raw = door.enter(&ending(&busy)).await;
    let mut sent = 0;
    let end = async {
        // What was answered before the end was answered well; then nothing more comes.
        loop {
            let bytes = publish(QOS1, &busy.topic(""), 5, format!("{sent}").as_bytes());
            if busy_raw.try_send(&bytes).await.is_err() || answer(&mut busy_raw).await.is_none() {
                break;
            }
            sent += 1;
        }
    };
    raw::within("the end of a busy connection", end).await;
    silent.expect_close().await;
    deliver(&mut lasting_raw, &lasting, b"x").await;
    // With a good token it comes back, and what was acknowledged is there.
    let stored = bodies(&everything(hub, &door, &busy).await);
    let want: Vec<_> = (0..sent).map(|n| n.to_string()).collect();
    assert!(sent > 0 && stored.starts_with(&want), "{sent} acknowledged, stored: {stored:?}");
}

async fn answer(raw: &mut Raw) -> Option<()> {
    let packet = raw.packet().await.ok()?;
    assert_eq!(packet, puback(5));
    Some(())
}

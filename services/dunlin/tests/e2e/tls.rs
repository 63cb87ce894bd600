//! TLS handshakes in numbers. What OpenSSL makes of them, record by record, is in `tests/sdk`.

use dunlin::test_hub::TestHub;
use dunlin_runtime::Role;

use crate::mqtt_kit::{Device, Door, beside, door_beside};

/// A ClientHello often arrives before the hub has got round to the connection: it must be answered
/// all the same. (The TLS layer once lost the answer of some in a hundred.)
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_come_all_at_once_are_all_answered() {
    let hub = TestHub::all_in_one().await;
    let door = Door::of(&hub);
    let opening: Vec<_> = (0..300)
        .map(|_| {
            let door = door.clone();
            tokio::spawn(async move { door.open().await })
        })
        .collect();
    for open in opening {
        open.await.expect("a connection");
    }
    hub.stop().await;
}

/// More honest devices than the lobby has places, all at once and none trying twice: they wait for
/// one another instead of being sent away.
#[tokio::test(flavor = "multi_thread")]
async fn an_honest_storm_is_served_in_order() {
    let hub = TestHub::all_in_one().await;
    let log = hub.stores().events.clone();
    let small = beside(&hub, &Role::ALL, log, |config| config.gateway.max_unfinished = 32).await;
    let door = door_beside(&hub, &small);
    let mut devices = Vec::new();
    for n in 0..300 {
        devices.push(Device::create(&hub, &format!("storm-{n}")).await);
    }
    let connecting: Vec<_> = devices
        .into_iter()
        .map(|device| {
            let door = door.clone();
            tokio::spawn(async move { door.enter(&device.connect()).await })
        })
        .collect();
    for connect in connecting {
        connect.await.expect("connected");
    }
    small.stop().await;
    hub.stop().await;
}

//! A hub that is told to stop: what was sent is acknowledged, who comes is sent away with a code
//! that SDKs take for passing.

use dunlin::test_hub::TestHub;

use crate::mqtt_kit::{Device, Door};
use crate::raw::{connack, puback};

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_hub_acknowledges_what_it_took_and_lets_nobody_in() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let late = Device::create(&hub, "late").await;
    let mut connected = door.enter(&device.connect()).await;
    let connect = late.connect().bytes();
    let (first, rest) = connect.split_at(connect.len() / 2);
    let mut late = door.say(first).await;

    for packet_id in 1..=50 {
        connected.send(&device.message(packet_id, b"before the end")).await;
    }
    // The last is taken, so all are; then the hub is told to stop.
    for packet_id in 1..=50 {
        connected.expect(&puback(packet_id)).await;
    }
    let stopping = tokio::spawn(hub.stop());
    connected.expect_close().await;
    // From here on the hub is known to be draining. Closed without an answer is as good as 3.
    if late.try_send(rest).await.is_ok()
        && let Ok(answer) = late.packet().await
    {
        assert_eq!(answer, connack(3));
    }
    stopping.await.expect("stopped");
}

//! SUBSCRIBE, UNSUBSCRIBE and acknowledgements, as long as the hub sends no messages. Only the
//! connection itself is concerned, so these run all-in-one only.

use dunlin::test_hub::TestHub;

use crate::mqtt_kit::{Device, Door, deliver};
use crate::raw::{puback, suback, subscribe, unsubscribe};

#[tokio::test]
async fn subscribe_is_answered() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    let own = "devices/d/messages/devicebound/#";
    for (filter, known) in [("$iothub/twin/res/#", true), (own, true), ("#", false), ("ä", false)]
    {
        for qos in 0..=2 {
            raw.send(&subscribe(1, &[(filter, qos)])).await;
            raw.expect(&suback(1, &[if known { qos.min(1) } else { 0x80 }])).await;
        }
    }
    // One answer, a code for each filter, and the same packet id.
    let many: Vec<_> = (0..50).map(|n| ([own, "#"][usize::from(n) % 2], n % 3)).collect();
    let codes: Vec<_> = (0..50).map(|n| if n % 2 == 0 { (n % 3).min(1) } else { 0x80 }).collect();
    raw.send(&subscribe(0xfedc, &many)).await;
    raw.expect(&suback(0xfedc, &codes)).await;
    deliver(&mut raw, &device, b"x").await;
    hub.stop().await;
}

#[tokio::test]
async fn unsubscribe_is_answered() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    raw.send(&unsubscribe(0xffff, &["nothing/like/it"])).await;
    raw.expect(&[0xb0, 2, 0xff, 0xff]).await;
    raw.send(&unsubscribe(2, &["a", "b", "c", "a"])).await;
    raw.expect(&[0xb0, 2, 0, 2]).await;
    raw.expect_alive().await;
    hub.stop().await;
}

#[tokio::test]
async fn a_puback_nobody_waits_for_is_ignored() {
    let hub = TestHub::all_in_one().await;
    let (door, device) = (Door::of(&hub), Device::create(&hub, "d").await);
    let mut raw = door.enter(&device.connect()).await;
    raw.send(&[puback(1), puback(0xffff)].concat()).await;
    raw.expect_alive().await;
    hub.stop().await;
}

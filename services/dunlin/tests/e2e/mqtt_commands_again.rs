//! C2D messages over MQTT that come again, and must: lost connections, lost locks, and a role `c2d`
//! that fails.

use dunlin_model::Identity;
use dunlin_proto::v1::Disposition;

use crate::c2d_kit::Site;
use crate::mqtt_commands::{acknowledge, listen};
use crate::mqtt_kit::{Device, Door};
use crate::raw::{DISCONNECT, Raw};

async fn listener(door: &Door, device: &Device) -> Raw {
    let mut raw = door.enter(&device.connect()).await;
    listen(&mut raw, device, 1).await;
    raw
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = listener(&site.door, &device).await;
    for text in ["1", "2", "3"] {
        site.send("d", text).await;
    }
    let mut second = None;
    for want in ["1", "2", "3"] {
        let message = raw.published().await;
        assert_eq!((message.text(), message.dup), (want, false));
        if want == "2" {
            second = Some(message);
        }
    }
    acknowledge(&mut raw, &second.expect("it came")).await;
    raw.expect_alive().await;
    raw.abandon();
    site.queues.until("release", |state| state.releases > 0).await;
    let mut raw = site.door.resume(&device.connect()).await;
    for want in ["1", "3"] {
        let message = raw.published().await;
        assert_eq!((message.text(), message.dup), (want, true));
        acknowledge(&mut raw, &message).await;
    }
    site.queues.until("completion", |state| state.left("d") == 0).await;
    let mut raw = site.door.resume(&device.connect()).await;
    raw.expect_alive().await;
    site.stop().await;
}

/// Whoever comes next, also to another gateway or after a restart, waits for it.
#[tokio::test]
async fn a_connection_is_there_until_what_it_acknowledged_is_settled() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = listener(&site.door, &device).await;
    for text in ["1", "2"] {
        site.send("d", text).await;
    }
    let first = raw.published().await;
    assert_eq!(raw.published().await.text(), "2");
    site.queues.hold_settles(true);
    acknowledge(&mut raw, &first).await;
    raw.send(&DISCONNECT).await;
    site.queues.until("a settle call", |state| state.settles == 1).await;
    let id = Identity::parse("d").expect("an id");
    assert!(site.hub.stores().presence.holder(&id).await.expect("presence").is_some());
    site.queues.hold_settles(false);
    raw.expect_close().await;
    assert_eq!(site.queues.state().settled, [(1, Disposition::Complete)]);
    let mut next = site.door.resume(&device.connect()).await;
    let message = next.published().await;
    // It was given back in good order.
    assert_eq!((message.text(), message.dup), ("2", false));
    site.stop().await;
}

/// SIGTERM while a message is being settled and others are being fetched. Who has nothing of the kind
/// goes at once, and shows that the hub stops.
#[tokio::test]
async fn a_hub_that_stops_settles_and_gives_back() {
    let site = Site::start().await;
    let idle = Device::create(&site.hub, "idle").await;
    let mut idle = site.door.enter(&idle.connect()).await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = listener(&site.door, &device).await;
    site.send("d", "1").await;
    let first = raw.published().await;
    site.queues.until("no lease call", |state| state.leases == 2).await;
    site.queues.hold_leases(true);
    site.queues.hold_settles(true);
    site.send("d", "2").await;
    acknowledge(&mut raw, &first).await;
    site.queues.until("a settle call", |state| state.settles == 1).await;
    let Site { hub, beside, queues, .. } = site;
    let stopped = tokio::spawn(beside.stop());
    idle.expect_close().await;
    queues.hold_leases(false);
    queues.hold_settles(false);
    // Its worker may hear of the stop after idle's has, and still hand out what was fetched.
    raw.rest().await;
    stopped.await.expect("stopped");
    assert_eq!(queues.state().settled, [(1, Disposition::Complete)]);
    assert_eq!(queues.state().waiting("d"), [0], "the hub's stopping is not in vain");
    hub.stop().await;
}

#[tokio::test]
async fn a_lock_that_ran_out_means_another_delivery() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    // Nobody is told of it: no second look is under way.
    site.queues.put_text("d", "slow");
    let mut raw = listener(&site.door, &device).await;
    let first = raw.published().await;
    site.queues.expire_locks();
    // Too late: nothing happens.
    acknowledge(&mut raw, &first).await;
    site.queues.until("a lost lock", |state| state.lost == 1).await;
    raw.expect_alive().await;
    assert_eq!(site.queues.state().left("d"), 1);
    site.notify("d").await;
    let second = raw.published().await;
    assert_eq!((second.text(), second.dup), ("slow", true));
    // Sent again while it is unacknowledged, it is the same packet, and one PUBACK will do.
    site.queues.expire_locks();
    site.notify("d").await;
    let third = raw.published().await;
    assert_eq!((third.text(), third.dup, third.packet_id), ("slow", true, second.packet_id));
    acknowledge(&mut raw, &third).await;
    let done = (1, Disposition::Complete);
    site.queues.until("completion", |state| state.settled == [done]).await;
    raw.expect_alive().await;
    site.stop().await;
}

#[tokio::test]
async fn a_role_that_fails_is_asked_again() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    site.queues.state().failing = true;
    site.queues.put_text("d", "1");
    let mut raw = listener(&site.door, &device).await;
    // Of itself, and more than once.
    site.queues.until("two attempts", |state| state.leases >= 2).await;
    raw.expect_alive().await;
    site.queues.state().failing = false;
    let message = raw.published().await;
    assert_eq!((message.text(), message.dup), ("1", false));
    // What is acknowledged meanwhile is told once it is back.
    site.queues.state().failing = true;
    acknowledge(&mut raw, &message).await;
    raw.expect_alive().await;
    site.queues.state().failing = false;
    site.queues.until("completion", |state| state.left("d") == 0).await;
    // Whoever has news is there: that is not waited for.
    site.send("d", "2").await;
    assert_eq!(raw.published().await.text(), "2");
    site.stop().await;
}

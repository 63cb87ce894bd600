//! C2D messages over MQTT that come again, and must: lost connections, lost locks, takeovers, and a
//! role `c2d` that fails.

use std::time::Duration;

use dunlin_proto::v1::Disposition;
use tokio::task::JoinSet;

use crate::c2d_kit::Site;
use crate::mqtt_commands::{acknowledge, listen};
use crate::mqtt_kit::{Device, Door};
use crate::raw::Raw;

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

/// SIGTERM just when a PUBACK has come.
#[tokio::test]
async fn a_hub_that_stops_settles_and_gives_back() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = listener(&site.door, &device).await;
    for text in ["1", "2"] {
        site.send("d", text).await;
    }
    let first = raw.published().await;
    assert_eq!(raw.published().await.text(), "2");
    site.queues.hold_settling(true);
    acknowledge(&mut raw, &first).await;
    raw.expect_alive().await;
    let Site { hub, beside, queues, .. } = site;
    let mut stopped = tokio::spawn(beside.stop());
    raw.expect_close().await;
    // It has five seconds, and would be over at once.
    let early = tokio::time::timeout(Duration::from_millis(500), &mut stopped).await;
    assert!(early.is_err(), "it does not wait");
    queues.hold_settling(false);
    stopped.await.expect("stopped");
    assert_eq!(queues.state().settled, [(1, Disposition::Complete)]);
    assert_eq!(queues.state().waiting("d"), [0], "the hub's stopping is not in vain");
    hub.stop().await;
}

/// SIGTERM while messages are being fetched.
#[tokio::test]
async fn a_hub_that_stops_gives_back_what_comes_too_late() {
    let site = Site::start().await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = listener(&site.door, &device).await;
    site.queues.until("no lease call", |state| state.leases == 1).await;
    site.queues.hold_leases(true);
    site.send("d", "1").await;
    raw.expect_alive().await;
    let Site { hub, beside, queues, .. } = site;
    let stopped = tokio::spawn(beside.stop());
    raw.expect_close().await;
    queues.hold_leases(false);
    stopped.await.expect("stopped");
    assert_eq!(queues.state().leases, 2);
    assert_eq!(queues.state().waiting("d"), [0]);
    hub.stop().await;
}

/// Each connection takes over from one that is still there, which may have a message unacknowledged
/// and whose settling may still be under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_takeovers_lose_and_double_nothing() {
    const DEVICES: usize = 4;
    const TAKEOVERS: usize = 250;
    let site = std::sync::Arc::new(Site::start().await);
    let mut all = JoinSet::new();
    for n in 0..DEVICES {
        let device = Device::create(&site.hub, &format!("d{n}")).await;
        let site = site.clone();
        all.spawn(async move {
            let mut former = listener(&site.door, &device).await;
            let mut done = Vec::new();
            for number in 0..TAKEOVERS {
                site.queues.put_text(&device.id, &number.to_string());
                // To whichever connection: the former has been told of nothing, or of this.
                if number % 3 == 0 {
                    site.notify(&device.id).await;
                }
                let mut raw = site.door.resume(&device.connect()).await;
                former.rest().await;
                while done.len() < number {
                    let message = raw.published().await;
                    acknowledge(&mut raw, &message).await;
                    raw.send(&crate::raw::PINGREQ).await;
                    // Then the hub knows; before the answer there may be the next message.
                    done.push(message.text().to_owned());
                    let next = raw.packet().await.expect("a packet");
                    if next != crate::raw::PINGRESP {
                        raw.expect(&crate::raw::PINGRESP).await;
                    }
                }
                former = raw;
            }
            let mut raw = site.door.resume(&device.connect()).await;
            let message = raw.published().await;
            assert_eq!(message.text(), (TAKEOVERS - 1).to_string());
            done.push(message.text().to_owned());
            let want: Vec<_> = (0..TAKEOVERS).map(|number| number.to_string()).collect();
            assert_eq!(done, want);
        });
    }
    all.join_all().await;
    std::sync::Arc::into_inner(site).expect("nobody else has it").stop().await;
}

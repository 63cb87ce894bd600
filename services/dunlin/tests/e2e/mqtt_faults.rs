//! PUBACK means durable: what devices see when the event log fails, or has no room. The log with
//! faults is that of a hub beside the test hub, so these run all-in-one only.

use std::sync::Arc;

use dunlin::hub::Hub;
use dunlin::test_hub::TestHub;
use dunlin_runtime::Role;

use crate::mqtt_kit::{Device, Door, beside, bodies, deliver, door_beside, events, everything};
use crate::mqtt_log::{Faults, FaultyLog};
use crate::raw::{Connect, PINGREQ, puback};

struct Site {
    hub: TestHub,
    beside: Hub,
    log: Arc<FaultyLog>,
    door: Door,
}

impl Site {
    async fn with(faults: Faults) -> Self {
        let hub = TestHub::all_in_one().await;
        let log = Arc::new(FaultyLog::over(&hub.stores().events, faults));
        let beside = beside(&hub, &Role::ALL, log.clone(), |_| {}).await;
        let door = door_beside(&hub, &beside);
        Self { hub, beside, log, door }
    }

    async fn stop(self) {
        self.beside.stop().await;
        self.hub.stop().await;
    }
}

fn numbered(device: &Device, count: u16) -> Vec<u8> {
    (1..=count).flat_map(|n| device.message(n, n.to_string().as_bytes())).collect()
}

fn numbers(count: u16) -> Vec<String> {
    (1..=count).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn puback_means_durable() {
    for fails in [1, 2, 57, 100, 150] {
        let site = Site::with(Faults { fails: Some(u64::from(fails)), ..Faults::default() }).await;
        let device = Device::create(&site.hub, "d").await;
        let mut raw = site.door.enter(&device.connect()).await;
        raw.send(&numbered(&device, 200)).await;
        // All before it are acknowledged; it is not, nor is any after it, and that is the end.
        let want: Vec<u8> = (1..fails).flat_map(puback).collect();
        let rest = raw.rest().await;
        assert_eq!(rest, want, "the {fails}th failed");
        // What was acknowledged is there, and the device goes on after it.
        let mut raw = site.door.enter(&device.connect()).await;
        deliver(&mut raw, &device, b"again").await;
        let stored = bodies(&everything(&site.hub, &site.door, &device).await);
        assert!(stored.starts_with(&numbers(fails - 1)), "the {fails}th failed: {stored:?}");
        assert_eq!(stored.last().map(String::as_str), Some("again"));
        site.stop().await;
    }
}

/// One device's failure is not another's.
#[tokio::test]
async fn a_failed_record_closes_its_own_connection() {
    let site = Site::with(Faults { fails: Some(2), ..Faults::default() }).await;
    let (good, bad) = (Device::create(&site.hub, "a").await, Device::create(&site.hub, "b").await);
    let mut good_raw = site.door.enter(&good.connect()).await;
    let mut bad_raw = site.door.enter(&bad.connect()).await;
    deliver(&mut good_raw, &good, b"1").await;
    bad_raw.send(&bad.message(1, b"lost")).await;
    bad_raw.expect_close().await;
    deliver(&mut good_raw, &good, b"2").await;
    site.stop().await;
}

/// An acknowledgement that waits for an earlier one does not come before it.
#[tokio::test]
async fn a_later_record_does_not_wait_in_vain() {
    let site = Site::with(Faults { fails: Some(3), ..Faults::default() }).await;
    site.log.withhold(true);
    let device = Device::create(&site.hub, "d").await;
    let mut raw = site.door.enter(&device.connect()).await;
    raw.send(&numbered(&device, 5)).await;
    site.log.when(|counts| counts.accepted == 5).await;
    raw.expect_alive().await;
    site.log.withhold(false);
    assert_eq!(raw.rest().await, [puback(1), puback(2)].concat());
    site.stop().await;
}

#[tokio::test]
async fn a_full_log_slows_and_loses_nothing() {
    let site = Site::with(Faults { room: Some(0), ..Faults::default() }).await;
    let mut devices = Vec::new();
    for id in ["a", "b", "c"] {
        let device = Device::create(&site.hub, id).await;
        let mut raw = site.door.enter(&device.connect()).await;
        raw.send(&numbered(&device, 300)).await;
        devices.push((device, raw));
    }
    site.log.when(|counts| counts.refused > 0).await;
    // Room comes a few records at a time, each time only once it is used up.
    let mut taken = 0;
    for room in [1, 1, 2, 7, 50, 100, 3] {
        site.log.make_room(Some(room));
        taken += room;
        site.log.when(|counts| counts.accepted == taken).await;
    }
    site.log.make_room(None);
    for (_, raw) in &mut devices {
        for n in 1..=300 {
            raw.expect(&puback(n)).await;
        }
        raw.expect_alive().await;
    }
    for (device, _) in &devices {
        assert_eq!(bodies(&events(&site.hub, &device.id, 300).await), numbers(300));
    }
    site.stop().await;
}

/// While the log is full the hub does not read, so it cannot know whether a device is silent.
#[tokio::test]
async fn a_full_log_is_not_the_devices_silence() {
    let site = Site::with(Faults { room: Some(0), ..Faults::default() }).await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = site.door.enter(&Connect { keep_alive: 1, ..device.connect() }).await;
    raw.send(&[device.message(1, b"1"), PINGREQ.to_vec()].concat()).await;
    site.log.when(|counts| counts.refused > 0).await;
    // Two others are silent long enough, one after the other.
    for id in ["silent", "again"] {
        let silent = Device::create(&site.hub, id).await;
        let connect = Connect { keep_alive: 1, ..silent.connect() };
        site.door.enter(&connect).await.expect_close().await;
    }
    site.log.make_room(None);
    let mut answers = [raw.packet().await.expect("alive"), raw.packet().await.expect("alive")];
    answers.sort();
    assert_eq!(answers, [puback(1).to_vec(), crate::raw::PINGRESP.to_vec()]);
    site.stop().await;
}

/// A device that goes away while its message waits for room: the message was never taken.
#[tokio::test]
async fn who_goes_while_the_log_is_full_is_forgotten() {
    let site = Site::with(Faults { room: Some(0), ..Faults::default() }).await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw = site.door.enter(&device.connect()).await;
    raw.send(&device.message(1, b"waits")).await;
    site.log.when(|counts| counts.refused > 0).await;
    raw.abandon();
    // The identity is free for the next one.
    let mut raw = site.door.enter(&device.connect()).await;
    raw.expect_alive().await;
    site.log.make_room(None);
    deliver(&mut raw, &device, b"later").await;
    assert_eq!(bodies(&everything(&site.hub, &site.door, &device).await), ["later"]);
    site.stop().await;
}

/// A connection that waits for the log is as good as any to be taken over.
#[tokio::test]
async fn who_waits_for_the_log_can_be_taken_over() {
    for room in [None, Some(100)] {
        let site = Site::with(Faults { room, withhold: true, ..Faults::default() }).await;
        let device = Device::create(&site.hub, "d").await;
        let mut former = site.door.enter(&device.connect()).await;
        former.send(&numbered(&device, 200)).await;
        site.log.when(|counts| counts.accepted == 100).await;
        let mut later = site.door.enter(&device.connect()).await;
        former.expect_close().await;
        site.log.withhold(false);
        site.log.make_room(None);
        deliver(&mut later, &device, b"later").await;
        let want = [numbers(100), vec!["later".to_owned()]].concat();
        assert_eq!(bodies(&everything(&site.hub, &site.door, &device).await), want);
        site.stop().await;
    }
}

/// What is on its way when the hub stops is acknowledged; then connections end, with their wills.
#[tokio::test]
async fn a_hub_that_stops_acknowledges_first() {
    let site = Site::with(Faults { withhold: true, ..Faults::default() }).await;
    let device = Device::create(&site.hub, "d").await;
    let mut raw =
        site.door.enter(&Connect { will: Some(device.will(b"will")), ..device.connect() }).await;
    let idle = Device::create(&site.hub, "idle").await;
    let mut idle_raw = site.door.enter(&idle.connect()).await;
    raw.send(&numbered(&device, 50)).await;
    site.log.when(|counts| counts.accepted == 50).await;
    let stopping = tokio::spawn(site.beside.stop());
    idle_raw.expect_close().await;
    site.log.withhold(false);
    let want: Vec<u8> = (1..=50).flat_map(puback).collect();
    assert_eq!(raw.rest().await, want);
    stopping.await.expect("stopped");
    let want = [numbers(50), vec!["will".to_owned()]].concat();
    assert_eq!(bodies(&events(&site.hub, "d", 51).await), want);
    site.hub.stop().await;
}

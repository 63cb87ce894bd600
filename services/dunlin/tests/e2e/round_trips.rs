//! What each operation asks of Postgres and of Redis, end to end, on a hub that does nothing else
//! (docs/measurements.md has the table). A batch counts once, however many it serves.

use std::time::Duration;

use dunlin::client::{CommandMessage, TwinPatch};
use dunlin::test_hub::Setup;
use reqwest::header::HeaderMap;
use serde_json::value::RawValue;

use crate::method_kit::{answer, call, called, clean, ended, invoke, take_methods};
use crate::mqtt_commands::{acknowledge, listen};
use crate::mqtt_kit::{Device, Door, deliver};
use crate::mqtt_twin::{ANSWERS, DESIRED, Told, get, report};
use crate::raw::{DEADLINE, DISCONNECT, Raw, suback, subscribe};
use crate::registry_connections::until;
use crate::servers_kit::{Servers, Trips};

/// What goes on by itself, or is read once a second for all: leases, the reaper, expired messages,
/// shared access policies.
const BACKGROUND: [&str; 8] = [
    "node_renew",
    "node_lives",
    "lease_take",
    "node_list",
    "command_sweep",
    "feedback_sweep",
    "setting_get",
    "setting_init",
];

/// Counts, operation by operation. What one does too much or too late shows at the next.
struct Meter<'a> {
    servers: &'a Servers,
    want: [Trips; 2],
}

impl<'a> Meter<'a> {
    fn new(servers: &'a Servers) -> Self {
        Self { servers, want: foreground(servers) }
    }

    /// The operation that was just done takes so many round trips to Postgres, and so many to Redis.
    async fn took(
        &mut self,
        what: &str,
        postgres: &[(&'static str, u64)],
        redis: &[(&'static str, u64)],
    ) {
        for (want, more) in self.want.iter_mut().zip([postgres, redis]) {
            for (kind, trips) in more {
                *want.entry(kind).or_default() += trips;
            }
        }
        let counted = async {
            let mut look = tokio::time::interval(Duration::from_millis(1));
            while !self.reached(what) {
                look.tick().await;
            }
        };
        if tokio::time::timeout(DEADLINE, counted).await.is_err() {
            panic!("{what}: {:?} is less than {:?}", foreground(self.servers), self.want);
        }
    }

    /// Whether all was counted. More than that must never be.
    fn reached(&self, what: &str) -> bool {
        let now = foreground(self.servers);
        for (now, want) in now.iter().zip(&self.want) {
            let fits = |(kind, trips)| want.get(kind).is_some_and(|most| trips <= most);
            assert!(now.iter().all(fits), "{what}: {now:?} is more than {want:?}");
        }
        now == self.want
    }
}

fn foreground(servers: &Servers) -> [Trips; 2] {
    servers.trips().map(|mut trips| {
        trips.retain(|kind, _| !BACKGROUND.contains(kind));
        trips
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_takes_as_many_round_trips_as_it_must_all_in_one() {
    count(Setup::all_in_one()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_takes_as_many_round_trips_as_it_must_split() {
    count(Setup::split()).await;
}

async fn count(setup: Setup) {
    let (servers, hub) = Servers::start(setup).await;
    let door = Door::of(&hub);
    let device = Device::create(&hub, "d").await;
    // The first claim in a bucket takes a generation for all that follow.
    let mut raw = door.enter(&clean(&device)).await;
    until(&hub, "d", "Connected").await;
    let released = servers.more("release", 1);
    raw.send(&DISCONNECT).await;
    released.await;
    until(&hub, "d", "Disconnected").await;
    let mut meter = Meter::new(&servers);

    let mut raw = door.enter(&clean(&device)).await;
    meter.took("connect", &[("identity_get", 1), ("connections_record", 2)], &[("claim", 1)]).await;

    for n in 0..10 {
        deliver(&mut raw, &device, format!("{n}").as_bytes()).await;
    }
    meter.took("publish", &[], &[]).await;

    take_methods(&mut raw).await;
    raw.send(&subscribe(1, &[(ANSWERS, 0), (DESIRED, 0)])).await;
    raw.expect(&suback(1, &[0, 0])).await;
    meter.took("subscribe, clean session", &[], &[]).await;

    raw.send(&report("1", r#"{"a":1}"#)).await;
    twin_answer(&mut raw, 204).await;
    meter.took("reported patch", &[("twin_change", 2)], &[]).await;

    raw.send(&get("2")).await;
    twin_answer(&mut raw, 200).await;
    meter.took("twin", &[("twin_get", 1)], &[]).await;

    let desired = RawValue::from_string(r#"{"b":1}"#.to_owned()).expect("JSON");
    let patch = TwinPatch::new(None, Some(&desired));
    hub.client().twin_update("d", &patch, None).await.expect("updated");
    let told = raw.packet().await.expect("told");
    assert!(Told::read(&told).topic.contains("properties/desired"));
    // The answer shows how many C2D messages are queued.
    let postgres = [("twin_change", 2), ("command_count", 1)];
    meter.took("desired patch", &postgres, &[("holder", 1)]).await;

    let invoked = invoke(&hub.client(), "d", call("reboot", 0, "1"));
    let rid = called(&mut raw).await.rid;
    raw.send(&answer(200, &rid, "2")).await;
    ended(invoked).await.expect("answered");
    meter.took("method", &[], &[("holder", 1)]).await;

    listen(&mut raw, &device, 1).await;
    meter.took("subscribe to C2D: nothing queued", &[("command_change", 1)], &[]).await;

    let command = CommandMessage { headers: HeaderMap::new(), body: b"hello".to_vec() };
    hub.client().c2d_send("d", command).await.expect("sent");
    let message = raw.published().await;
    let (send, lease) = (2, 2);
    meter
        .took("C2D: send, and hand out", &[("command_change", send + lease)], &[("holder", 1)])
        .await;
    acknowledge(&mut raw, &message).await;
    meter.took("C2D: complete", &[("command_change", 2)], &[]).await;

    raw.send(&DISCONNECT).await;
    raw.expect_close().await;
    meter.took("disconnect", &[("connections_record", 2)], &[("release", 1)]).await;

    let mut raw = door.enter(&device.connect()).await;
    meter
        .took(
            "connect, session",
            &[("identity_get", 1), ("connections_record", 2)],
            &[("claim", 1)],
        )
        .await;
    raw.send(&subscribe(1, &[(ANSWERS, 0)])).await;
    raw.expect(&suback(1, &[0])).await;
    meter.took("subscribe, session", &[("connections_record", 2)], &[]).await;

    // Nothing comes after it: meanwhile everything that goes on by itself has had its turn.
    servers.more("node_renew", 2).await;
    servers.more("node_list", 2).await;
    meter.took("quiet", &[], &[]).await;
    servers.stop(hub).await;
}

async fn twin_answer(raw: &mut Raw, want: u16) {
    let told = Told::read(&raw.packet().await.expect("an answer"));
    assert_eq!(told.answer().map(|(status, ..)| status), Some(want));
}

//! The same random operations in memory and on Redis: the same answers, epochs being told apart by
//! the claims that gave them. What leases do with time is in the conformance suite.

use dunlin_model::Identity;

use super::redis_kit::{Redis, of_the_run};
use crate::presence::{Claim, Epoch, Holder, MemoryPresence, Presence};
use crate::testing::seeded;

const OPERATIONS: usize = 2_000;
const NODES: [&str; 3] = ["gateway-1", "gateway-2", "gateway-3"];

/// What one claim was given on each side.
struct Granted {
    id: Identity,
    epochs: [Epoch; 2],
}

/// A holder as both sides can tell of it: by the number of its claim.
fn known(granted: &[Granted], side: usize, holder: Option<Holder>) -> Option<(String, usize)> {
    let holder = holder?;
    let claim = granted.iter().position(|one| one.epochs[side] == holder.epoch);
    Some((holder.node, claim.expect("an epoch that a claim was given")))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_give_the_same_answers() {
    let mut rng = seeded("DUNLIN_PRESENCE_SEED");
    let redis = Redis::new(&of_the_run());
    let sides: [Box<dyn Presence>; 2] =
        [Box::new(MemoryPresence::new(1)), Box::new(redis.presence().await)];
    let ids = ["a", "b", "a/m"].map(|id| Identity::parse(id).expect("an id"));
    let mut granted: Vec<Granted> = Vec::new();
    for turn in 0..OPERATIONS {
        let id = &ids[rng.usize(..ids.len())];
        let node = NODES[rng.usize(..NODES.len())];
        let version = rng.u64(1..4).max(turn as u64 / 500);
        match rng.u8(..10) {
            0..4 => {
                let mut given = Vec::new();
                for (side, presence) in sides.iter().enumerate() {
                    given.push(match presence.claim(id, node, version).await.expect("claimed") {
                        Claim::Revoked => None,
                        Claim::Granted { epoch, former } => {
                            Some((epoch, known(&granted, side, former)))
                        }
                    });
                }
                match (&given[0], &given[1]) {
                    (Some((one, former)), Some((two, other))) => {
                        assert_eq!(former, other, "{turn}: claim");
                        let epochs = [*one, *two];
                        let mut before = granted.iter().filter(|granted| granted.id == *id);
                        let grew =
                            |old: &Granted| (0..2).all(|side| old.epochs[side] < epochs[side]);
                        assert!(before.all(grew), "{turn}: an epoch does not grow");
                        granted.push(Granted { id: id.clone(), epochs });
                    }
                    (one, two) => assert_eq!(one, two, "{turn}: claim"),
                }
            }
            4 | 5 if !granted.is_empty() => {
                // Of a recent claim, so that some are still in force.
                let claim = &granted[granted.len() - 1 - rng.usize(..granted.len().min(6))];
                for (side, presence) in sides.iter().enumerate() {
                    presence.release(&claim.id, claim.epochs[side]).await.expect("released");
                }
            }
            6 => {
                let mut held = Vec::new();
                for (side, presence) in sides.iter().enumerate() {
                    let holder = presence.revoke(id, version).await.expect("revoked");
                    held.push(known(&granted, side, holder));
                }
                assert_eq!(held[0], held[1], "{turn}: revoke");
            }
            7 if !granted.is_empty() => {
                let claim = &granted[granted.len() - 1 - rng.usize(..granted.len().min(6))];
                let mut lost = Vec::new();
                for (side, presence) in sides.iter().enumerate() {
                    let held = [(claim.id.clone(), claim.epochs[side])];
                    lost.push(presence.restore(node, &held).await.expect("restored"));
                }
                assert_eq!(lost[0], lost[1], "{turn}: restore");
            }
            _ => {}
        }
        for id in &ids {
            let mut held = Vec::new();
            for (side, presence) in sides.iter().enumerate() {
                let holder = presence.holder(id).await.expect("asked");
                held.push(known(&granted, side, holder));
            }
            assert_eq!(held[0], held[1], "{turn}: holder");
        }
    }
    assert!(granted.len() > OPERATIONS / 10, "hardly any claim was granted");
}

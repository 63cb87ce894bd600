//! What every `Presence` must do: one function per part of its specification.
//! Each wants a presence of its own, empty.

use std::collections::HashMap;
use std::sync::Arc;

use dunlin_model::Identity;
use tokio::task::JoinSet;

use super::{Claim, Epoch, Holder, Presence, Renewed};

type Port = Arc<dyn Presence>;

fn id(joined: &str) -> Identity {
    Identity::parse(joined).expect("a valid id")
}

async fn claim(presence: &Port, joined: &str, node: &str) -> (Epoch, Option<Holder>) {
    match presence.claim(&id(joined), node, 1).await.expect("claim") {
        Claim::Granted { epoch, former } => (epoch, former),
        Claim::Revoked => panic!("nobody revoked {joined}"),
    }
}

async fn holder(presence: &Port, joined: &str) -> Option<Holder> {
    presence.holder(&id(joined)).await.expect("holder")
}

pub async fn a_claim_is_found_until_released(presence: Port) {
    assert_eq!(holder(&presence, "d").await, None);
    let (epoch, former) = claim(&presence, "d", "gateway-1").await;
    assert_eq!(former, None);
    assert_eq!(holder(&presence, "d").await, Some(Holder { node: "gateway-1".into(), epoch }));
    for other in ["d/m", "D", "e"] {
        assert_eq!(holder(&presence, other).await, None);
    }
    presence.release(&id("d"), epoch).await.expect("release");
    assert_eq!(holder(&presence, "d").await, None);
    presence.release(&id("d"), epoch).await.expect("a second release does nothing");
}

pub async fn a_claim_wins_over_an_older_one(presence: Port) {
    let (first, _) = claim(&presence, "d", "gateway-1").await;
    let (second, former) = claim(&presence, "d", "gateway-2").await;
    assert!(second > first);
    assert_eq!(former, Some(Holder { node: "gateway-1".into(), epoch: first }));
    let now = Some(Holder { node: "gateway-2".into(), epoch: second });
    assert_eq!(holder(&presence, "d").await, now);
    let (third, former) = claim(&presence, "d", "gateway-2").await;
    assert_eq!(former, now, "the same node's older connection must drop, too");
    assert!(third > second);
}

pub async fn a_release_with_an_old_epoch_does_nothing(presence: Port) {
    let (old, _) = claim(&presence, "d", "gateway-1").await;
    let (epoch, _) = claim(&presence, "d", "gateway-2").await;
    for stale in [old, 0, epoch + 1] {
        presence.release(&id("d"), stale).await.expect("release");
        assert_eq!(holder(&presence, "d").await, Some(Holder { node: "gateway-2".into(), epoch }));
    }
}

pub async fn the_epochs_of_an_identity_grow(presence: Port) {
    let mut last = HashMap::new();
    for n in 0..200 {
        let joined = format!("device-{}", n % 7);
        let (epoch, _) = claim(&presence, &joined, "gateway").await;
        let before = last.insert(joined.clone(), epoch);
        assert!(before < Some(epoch), "{joined}: {before:?}, then {epoch}");
        if n % 3 == 0 {
            presence.release(&id(&joined), epoch).await.expect("release");
        }
    }
}

/// Every holder but the last is named as somebody's former, once: nobody is forgotten.
pub async fn concurrent_claims_form_a_chain(presence: Port) {
    const RACERS: usize = 64;
    let mut racers = JoinSet::new();
    for n in 0..RACERS {
        let presence = Arc::clone(&presence);
        racers.spawn(async move { claim(&presence, "d", &format!("gateway-{n}")).await });
    }
    let mut chain = racers.join_all().await;
    chain.sort_by_key(|(epoch, _)| *epoch);
    assert_eq!(chain.len(), RACERS);
    assert_eq!(chain[0].1, None);
    for pair in chain.windows(2) {
        assert!(pair[0].0 < pair[1].0, "epochs never repeat");
        assert_eq!(pair[1].1.as_ref().map(|former| former.epoch), Some(pair[0].0));
    }
    let last = chain[RACERS - 1].0;
    assert_eq!(holder(&presence, "d").await.map(|holder| holder.epoch), Some(last));
}

/// Of concurrent releases and claims, only one's own connection is ever given up.
pub async fn concurrent_releases_give_up_their_own_only(presence: Port) {
    let mut racers = JoinSet::new();
    for n in 0..64 {
        let presence = Arc::clone(&presence);
        racers.spawn(async move {
            let (epoch, _) = claim(&presence, "d", "gateway").await;
            if n % 2 == 0 {
                presence.release(&id("d"), epoch).await.expect("release");
            }
            (epoch, n % 2 == 0)
        });
    }
    let outcomes = racers.join_all().await;
    let (last, released) = outcomes.into_iter().max().expect("racers");
    let holder = holder(&presence, "d").await.map(|holder| holder.epoch);
    assert_eq!(holder, (!released).then_some(last));
}

pub async fn a_revocation_refuses_older_claims(presence: Port) {
    let (epoch, _) = claim(&presence, "d", "gateway-1").await;
    let held = Some(Holder { node: "gateway-1".into(), epoch });
    assert_eq!(presence.revoke(&id("d"), 5).await.expect("revoke"), held);
    assert_eq!(holder(&presence, "d").await, held, "until it has dropped");
    let try_claim = async |joined: &str, version| {
        let claim = presence.claim(&id(joined), "gateway-2", version).await.expect("claim");
        matches!(claim, Claim::Granted { .. })
    };
    assert!(!try_claim("d", 4).await);
    assert_eq!(holder(&presence, "d").await, held, "a refused claim changes nothing");
    assert!(try_claim("d", 5).await);
    assert!(!try_claim("d", 4).await, "the marker outlives a newer claim");
    assert!(try_claim("d", 6).await);
    assert!(try_claim("e", 1).await, "others are not concerned");
    assert!(try_claim("d/m", 1).await, "a module is another");

    assert_eq!(presence.revoke(&id("absent"), 2).await.expect("revoke"), None);
    assert!(!try_claim("absent", 1).await);
    presence.revoke(&id("absent"), 1).await.expect("revoke");
    assert!(!try_claim("absent", 1).await, "an older revocation takes nothing back");
}

pub async fn a_node_lives_once_it_says_so(presence: Port) {
    assert!(!presence.node_lives("gateway-1").await.expect("lives"));
    assert_eq!(presence.node_renew("gateway-1").await.expect("renew"), Renewed::Lost);
    assert_eq!(presence.node_renew("gateway-1").await.expect("renew"), Renewed::Kept);
    assert!(presence.node_lives("gateway-1").await.expect("lives"));
    assert!(!presence.node_lives("gateway-2").await.expect("lives"));
}

pub async fn a_lease_has_one_holder(presence: Port) {
    let take = async |name: &str, holder: &str| presence.lease_take(name, holder).await;
    assert!(take("reaper", "one").await.expect("take"));
    assert!(!take("reaper", "two").await.expect("take"), "one has it");
    assert!(take("reaper", "one").await.expect("take"), "it is one's to keep");
    assert!(take("another", "two").await.expect("take"), "each lease has its own holder");
    assert!(!presence.node_lives("one").await.expect("lives"), "a holder is no node");
    let racers: Vec<_> = (0..16).map(|n| format!("racer-{n}")).collect();
    let takes = racers.iter().map(|racer| take("raced for", racer));
    let taken = futures_util::future::join_all(takes).await;
    assert_eq!(taken.into_iter().filter(|taken| matches!(taken, Ok(true))).count(), 1);
}

pub async fn what_is_missing_is_restored_and_what_is_newer_stays(presence: Port) {
    let (kept, _) = claim(&presence, "kept", "gateway-1").await;
    let (gone, _) = claim(&presence, "gone", "gateway-1").await;
    let (old, _) = claim(&presence, "moved", "gateway-1").await;
    presence.release(&id("gone"), gone).await.expect("release");
    let (moved, _) = claim(&presence, "moved", "gateway-2").await;
    let held = [(id("kept"), kept), (id("gone"), gone), (id("moved"), old), (id("a/b"), gone)];
    let taken = presence.restore("gateway-1", &held).await.expect("restore");
    assert_eq!(taken, [id("moved")]);
    for (joined, node, epoch) in [
        ("kept", "gateway-1", kept),
        ("gone", "gateway-1", gone),
        ("a/b", "gateway-1", gone),
        ("moved", "gateway-2", moved),
    ] {
        let want = Some(Holder { node: node.into(), epoch });
        assert_eq!(holder(&presence, joined).await, want, "{joined}");
    }
    let (next, former) = claim(&presence, "gone", "gateway-2").await;
    assert!(next > gone, "what was restored is claimed from as any other");
    assert_eq!(former, Some(Holder { node: "gateway-1".into(), epoch: gone }));
    assert!(presence.restore("gateway-1", &[]).await.expect("restore").is_empty());
}

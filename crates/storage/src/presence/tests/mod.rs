//! The conformance suite on both sides, and what only the embedded one promises.

use std::sync::Arc;
use std::time::Duration;

use dunlin_model::Identity;

use self::redis_kit::{Redis, Server, of_the_run};
use super::{Claim, MemoryPresence, NODE_LEASE, Presence, Renewed, conformance};

mod differential;
mod redis;
mod redis_kit;

async fn in_memory(test: impl AsyncFnOnce(Arc<dyn Presence>)) {
    test(Arc::new(MemoryPresence::new(1))).await;
}

async fn in_redis(test: impl AsyncFnOnce(Arc<dyn Presence>)) {
    let redis = Redis::new(&of_the_run());
    test(Arc::new(redis.presence().await)).await;
}

/// Keys of a script are of one slot.
async fn in_redis_cluster(test: impl AsyncFnOnce(Arc<dyn Presence>)) {
    let server = Server::start_cluster().await;
    test(Arc::new(Redis::new(&server.url()).presence().await)).await;
}

conforms!([in_memory, in_redis, in_redis_cluster] {
    a_claim_is_found_until_released,
    a_claim_wins_over_an_older_one,
    a_release_with_an_old_epoch_does_nothing,
    the_epochs_of_an_identity_grow,
    concurrent_claims_form_a_chain,
    concurrent_releases_give_up_their_own_only,
    a_revocation_refuses_older_claims,
    a_node_lives_once_it_says_so,
    a_lease_has_one_holder,
    what_is_missing_is_restored_and_what_is_newer_stays,
});

async fn claim(presence: &MemoryPresence, version: u64) -> Claim {
    let id = Identity::device("d").expect("id");
    presence.claim(&id, "gateway", version).await.expect("claim")
}

#[tokio::test]
async fn a_later_generation_is_above_an_earlier_one() {
    let Claim::Granted { epoch, .. } = claim(&MemoryPresence::new(3), 1).await else {
        panic!("refused")
    };
    assert_eq!(epoch, (3 << 40) + 1);
    let Claim::Granted { epoch: next, .. } = claim(&MemoryPresence::new(4), 1).await else {
        panic!("refused")
    };
    assert!(next > epoch);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_ends_and_is_forgotten() {
    let presence = MemoryPresence::new(1);
    let id = Identity::device("d").expect("id");
    for _ in 0..3 {
        presence.revoke(&id, 2).await.expect("revoke");
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(claim(&presence, 1).await, Claim::Revoked);
    presence.revoke(&id, 2).await.expect("revoke");
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(claim(&presence, 1).await, Claim::Revoked, "the second one counts anew");
    assert_eq!(presence.revocations(), (1, 1));
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(matches!(claim(&presence, 1).await, Claim::Granted { .. }));
    assert_eq!(presence.revocations(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_no_more_is_dead() {
    let presence = MemoryPresence::new(1);
    presence.node_renew("gateway").await.expect("renew");
    tokio::time::advance(NODE_LEASE).await;
    assert!(!presence.node_lives("gateway").await.expect("lives"));
    assert_eq!(presence.node_renew("gateway").await.expect("renew"), Renewed::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_kept_is_free() {
    let presence = MemoryPresence::new(1);
    assert!(presence.lease_take("reaper", "one").await.expect("take"));
    tokio::time::advance(NODE_LEASE / 2).await;
    assert!(presence.lease_take("reaper", "one").await.expect("keep"));
    tokio::time::advance(NODE_LEASE / 2).await;
    assert!(!presence.lease_take("reaper", "two").await.expect("take"), "one has kept it");
    tokio::time::advance(NODE_LEASE / 2).await;
    assert!(presence.lease_take("reaper", "two").await.expect("take"));
    assert!(!presence.lease_take("reaper", "one").await.expect("take"), "it is two's now");
}

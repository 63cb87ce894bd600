//! What presence promises of Redis in trouble.

use dunlin_model::Identity;

use super::redis_kit::{Redis, Server, of_the_run, variable};
use crate::error::chain;
use crate::presence::{Claim, Epoch, Holder, NODE_LEASE, Presence, RedisPresence, Renewed};

fn id() -> Identity {
    Identity::device("d").expect("an id")
}

async fn claim(presence: &RedisPresence, node: &str) -> (Epoch, Option<Holder>) {
    match presence.claim(&id(), node, 1).await.expect("claim") {
        Claim::Granted { epoch, former } => (epoch, former),
        Claim::Revoked => panic!("nobody revoked it"),
    }
}

#[tokio::test]
async fn two_processes_see_the_same() {
    let redis = Redis::new(&of_the_run());
    let (one, two) = (redis.presence().await, redis.presence().await);
    let (first, _) = claim(&one, "gateway-1").await;
    let (second, former) = claim(&two, "gateway-2").await;
    let (third, _) = claim(&one, "gateway-1").await;
    assert!(first < second && second < third);
    assert_eq!(former, Some(Holder { node: "gateway-1".into(), epoch: first }));
    assert!(two.revoke(&id(), 2).await.expect("revoke").is_some());
    assert_eq!(one.claim(&id(), "gateway-1", 1).await.expect("claim"), Claim::Revoked);
    let other = Redis::new(&of_the_run()).presence().await;
    assert_eq!(other.holder(&id()).await.expect("holder"), None, "under another prefix");
}

#[tokio::test]
async fn a_flush_loses_nobody_who_says_who_it_holds() {
    let server = Server::start().await;
    let redis = Redis::new(&server.url());
    let (one, two) = (redis.presence().await, redis.presence().await);
    assert_eq!(one.node_renew("gateway-1").await.expect("renew"), Renewed::Lost);
    let mut last = 0;
    for _ in 0..5 {
        last = claim(&one, "gateway-1").await.0;
    }
    server.tell(&["FLUSHALL"]).await.expect("flushed");
    assert_eq!(one.node_renew("gateway-1").await.expect("renew"), Renewed::Lost);
    assert!(one.restore("gateway-1", &[(id(), last)]).await.expect("restore").is_empty());
    let held = two.holder(&id()).await.expect("holder");
    assert_eq!(held, Some(Holder { node: "gateway-1".into(), epoch: last }));
    let (next, former) = claim(&two, "gateway-2").await;
    assert!(next > last, "{next:#x} is not above {last:#x}");
    assert_eq!(former, held);
}

#[tokio::test]
async fn whoever_claims_after_a_flush_is_the_newest() {
    let server = Server::start().await;
    let redis = Redis::new(&server.url());
    let (one, two) = (redis.presence().await, redis.presence().await);
    // The one that claims is not the one whose generation counts at that time.
    claim(&two, "gateway-2").await;
    let (old, _) = claim(&one, "gateway-1").await;
    server.tell(&["FLUSHALL"]).await.expect("flushed");
    let (new, former) = claim(&one, "gateway-1").await;
    assert!(new > old, "{new:#x} is not above {old:#x}");
    assert_eq!(former, None);
    let taken = two.restore("gateway-2", &[(id(), old)]).await.expect("restore");
    assert_eq!(taken, [id()], "who comes late with what it held has lost it");
}

#[tokio::test]
async fn epochs_go_on_above_what_a_restart_forgot() {
    let mut server = Server::start().await;
    let redis = Redis::new(&server.url());
    let presence = redis.presence().await;
    claim(&presence, "gateway").await;
    server.tell(&["SAVE"]).await.expect("saved");
    let mut last = 0;
    for _ in 0..5 {
        last = claim(&presence, "gateway").await.0;
    }
    server.kill();
    let away = presence.claim(&id(), "gateway", 1).await.expect_err("it is away");
    assert!(away.retryable(), "{away}");
    server.start_again().await;
    // What was saved is back, the five after it are not.
    let (next, former) = claim(&presence, "gateway").await;
    assert!(former.is_some_and(|former| former.epoch < last));
    assert!(next > last, "{next:#x} is not above {last:#x}");
    assert_eq!(presence.node_renew("gateway").await.expect("renew"), Renewed::Lost);
}

#[tokio::test]
async fn leases_end_by_themselves() {
    let server = Server::start().await;
    let presence = Redis::new(&server.url()).presence().await;
    presence.node_renew("gateway").await.expect("renew");
    assert!(presence.lease_take("reaper", "one").await.expect("take"));
    for (kind, name) in [("node", "gateway"), ("lease", "reaper")] {
        let left = server.tell(&["PTTL", &presence.key(kind, name)]).await.expect("a time");
        let redis::Value::Int(left) = left else { panic!("{left:?}") };
        assert!(left > 0 && left <= NODE_LEASE.as_millis() as i64, "{kind}: {left}");
    }
    server.tell(&["DEL", &presence.key("lease", "reaper")]).await.expect("as if it had ended");
    assert!(presence.lease_take("reaper", "two").await.expect("take"));
    assert!(!presence.lease_take("reaper", "one").await.expect("take"));
}

#[tokio::test]
async fn an_operation_is_one_round_trip() {
    let presence = Redis::new(&of_the_run()).presence().await;
    let (epoch, _) = claim(&presence, "gateway").await;
    assert_eq!(presence.round_trips(), [("claim", 2)].into(), "the first takes a generation");
    claim(&presence, "gateway").await;
    presence.holder(&id()).await.expect("holder");
    presence.release(&id(), epoch).await.expect("release");
    presence.restore("gateway", &[(id(), epoch)]).await.expect("restore");
    let want = [("claim", 3), ("holder", 1), ("release", 1), ("restore", 1)];
    assert_eq!(presence.round_trips(), want.into());
}

#[tokio::test]
async fn a_server_that_hangs_is_away_and_comes_back() {
    let server = Server::start().await;
    let presence = Redis::new(&server.url()).presence().await;
    let (first, _) = claim(&presence, "gateway").await;
    server.signal("STOP");
    let away = presence.holder(&id()).await.expect_err("it hangs");
    assert!(away.retryable(), "{away}");
    server.signal("CONT");
    let held = presence.holder(&id()).await.expect("holder").expect("held");
    assert_eq!(held.epoch, first);
}

#[tokio::test]
async fn a_server_that_must_not_be_written_to_is_away() {
    let server = Server::start().await;
    let presence = Redis::new(&server.url()).presence().await;
    claim(&presence, "gateway").await;
    server.tell(&["REPLICAOF", "127.0.0.1", "1"]).await.expect("demoted");
    let away = presence.claim(&id(), "gateway", 1).await.expect_err("read only");
    assert!(away.retryable(), "{}", chain(&away));
    server.tell(&["REPLICAOF", "NO", "ONE"]).await.expect("promoted");
    claim(&presence, "gateway").await;
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let url = of_the_run();
    let (_, rest) = url.split_once('@').expect("a password");
    for (url, want) in [
        (format!("redis://:s3cret@{rest}"), "authentication"),
        (format!("redis://{rest}"), "NOAUTH"),
        ("redis://:s3cret@127.0.0.1:1".to_owned(), "refused"),
        (format!("{url}?colour=s3cret"), "\"colour\""),
        (format!("{url}?sslrootcert=/nowhere"), "cannot read /nowhere"),
        ("redis://:s3cret@".to_owned(), "URL"),
    ] {
        let error = Redis::new(&url).open().await.map(drop).expect_err(&url);
        let text = chain(&error);
        assert!(text.to_lowercase().contains(&want.to_lowercase()), "{url}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn tls_is_spoken_with_whom_the_ca_vouches_for() {
    let (url, ca) = (variable("DUNLIN_TEST_REDIS_TLS"), variable("DUNLIN_TEST_CA"));
    let presence = Redis::new(&format!("{url}?sslrootcert={ca}")).presence().await;
    claim(&presence, "gateway").await;
    let error = Redis::new(&url).open().await.map(drop).expect_err("nobody vouches for it");
    assert!(chain(&error).contains("certificate"), "{}", chain(&error));
}

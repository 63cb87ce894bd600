//! Shared access policies over several registry processes, and reports of connections.

use std::time::{Duration, Instant};

use dunlin_model::ErrorCode as E;

use super::*;

/// Two processes on one store.
async fn two() -> (TempDir, [RegistryClient<MeshChannel>; 2]) {
    let folder = TempDir::new().expect("a folder");
    let data = DataFolder::open(folder.path()).expect("a data folder");
    let store = Arc::new(SqliteDeviceStore::new(data.sqlite()));
    let one = serve(store.clone(), [7; 32]).await.expect("a registry");
    (folder, [one, serve(store, [7; 32]).await.expect("another")])
}

fn named(name: &str) -> v1::Policy {
    v1::Policy { name: name.to_owned(), permissions: 1, ..v1::Policy::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_seen_by_every_process_within_a_second() {
    let (_folder, [mut one, mut other]) = two().await;
    let made = code(one.create_policy(named("mine")).await).expect("created");
    let begun = Instant::now();
    let seen = loop {
        match code(other.get_policy(v1::GetPolicyRequest { name: "mine".into() }).await) {
            Ok(seen) => break seen,
            Err(error) => assert_eq!(error.code, E::GenericNotFound),
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "not seen after a second and four");
    };
    assert_eq!(seen, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_two_processes_are_both_kept() {
    let (_folder, [mut one, mut other]) = two().await;
    for n in 0..5 {
        let (a, b) = (format!("a{n}"), format!("b{n}"));
        let (a, b) = tokio::join!(one.create_policy(named(&a)), other.create_policy(named(&b)));
        a.and(b).expect("both created");
    }
    // Whoever changes something reads first: then it has seen everything.
    other
        .delete_policy(v1::DeletePolicyRequest { name: "a0".into(), if_match: None })
        .await
        .expect("deleted");
    let listed = code(other.list_policies(v1::ListPoliciesRequest {}).await).expect("listed");
    assert_eq!(listed.policies.len(), 5 + 10 - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_reports_is_shown() {
    let mut hub = Hub::start().await;
    let made = hub.create(device("d")).await.expect("created");
    let state = v1::ConnectionState { connected: true, updated: 5, last_activity: 6 };
    let report = |identity: &str| v1::ConnectionReport {
        identity: identity.to_owned(),
        generation_id: made.generation_id.clone(),
        epoch: 1 << 40,
        state: Some(state),
    };
    let reports = vec![report("nobody"), report("d"), report("d")];
    let request = v1::RecordConnectionsRequest { reports, node: "n".into(), sessions: Vec::new() };
    code(hub.client.record_connections(request).await).expect("recorded");
    assert_eq!(hub.get("d").await.expect("found").connection, Some(state));
    let reports = vec![report("a b")];
    let bad = v1::RecordConnectionsRequest { reports, ..Default::default() };
    refused(code(hub.client.record_connections(bad).await).map(drop), E::ArgumentInvalid);
}

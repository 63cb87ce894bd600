//! What every `DeviceStore` must do: one function per part of its specification.
//! Each wants a store of its own, empty.

use std::future::Future;
use std::sync::Arc;

use dunlin_model::{ConnectionState, Identity, KeyPair, Session, Status};
use tokio::task::JoinSet;

use super::{DeviceStore, Done, IdentityWrite, IfMatch, Removed, StoredIdentity};

mod connections;
mod groups;

use crate::StoreError;
pub use connections::*;
pub use groups::*;

type Store = Arc<dyn DeviceStore>;

/// How many callers race in the concurrent parts.
pub(crate) const RACERS: usize = 16;

fn id(joined: &str) -> Identity {
    Identity::parse(joined).expect("a valid id")
}

/// An identity with every field told apart from the defaults.
pub fn sample(joined: &str) -> StoredIdentity {
    StoredIdentity {
        id: id(joined),
        generation_id: format!("generation of {joined}"),
        etag: "etag 1".into(),
        status: Status::Enabled,
        status_reason: Some("because".into()),
        status_updated: 1_700_000_000_123,
        auth_type: "sas".into(),
        credentials: vec![0, 1, 0xff],
        thumbprints: Some(KeyPair { primary: "first".into(), secondary: "second".into() }),
        auth_version: 7,
        iot_edge: !joined.contains('/'),
        device_scope: Some(format!("scope of {joined}")),
        parent_scopes: vec!["first parent".into(), "second".into()],
        managed_by: Some("somebody".into()),
        connection: ConnectionState::default(),
        session: Session::default(),
    }
}

async fn create(store: &Store, joined: &str) -> StoredIdentity {
    let new = sample(joined);
    store.identity_create(new.clone()).await.expect("create");
    new
}

async fn get(store: &Store, joined: &str) -> Option<StoredIdentity> {
    store.identity_get(&id(joined)).await.expect("get")
}

fn etag(etag: &str) -> IfMatch {
    IfMatch::Etag(etag.into())
}

pub(crate) async fn race<T, F>(call: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut racers: JoinSet<T> = (0..RACERS).map(call).collect();
    let mut outcomes = Vec::new();
    while let Some(outcome) = racers.join_next().await {
        outcomes.push(outcome.expect("no panic"));
    }
    outcomes
}

pub async fn create_stores_every_field(store: Store) {
    assert_eq!(get(&store, "d").await, None);
    let device = create(&store, "d").await;
    let mut module = sample("d/m");
    module.status = Status::Disabled;
    module.status_reason = None;
    module.credentials = Vec::new();
    module.auth_version = 0;
    module.device_scope = None;
    module.parent_scopes = Vec::new();
    module.managed_by = None;
    store.identity_create(module.clone()).await.expect("create");
    assert_eq!(get(&store, "d").await, Some(device));
    assert_eq!(get(&store, "d/m").await, Some(module));
    assert_eq!(get(&store, "d/other").await, None);
}

pub async fn create_refuses_a_taken_id(store: Store) {
    let first = create(&store, "d").await;
    let mut second = sample("d");
    second.etag = "etag 2".into();
    let refused = store.identity_create(second).await;
    assert!(matches!(refused, Err(StoreError::AlreadyExists)));
    assert_eq!(get(&store, "d").await, Some(first));
    create(&store, "d/m").await;
    let refused = store.identity_create(sample("d/m")).await;
    assert!(matches!(refused, Err(StoreError::AlreadyExists)));
}

pub async fn create_refuses_a_module_without_its_device(store: Store) {
    create(&store, "other").await;
    let refused = store.identity_create(sample("d/m")).await;
    assert!(matches!(refused, Err(StoreError::NotFound)));
    assert_eq!(get(&store, "d/m").await, None);
}

pub async fn ids_are_compared_ordinally(store: Store) {
    for joined in ["d", "D", "d.", "d%", "d_"] {
        create(&store, joined).await;
    }
    create(&store, "d/M").await;
    assert_eq!(get(&store, "d/m").await, None);
    store.identity_delete(&id("d"), IfMatch::Any).await.expect("delete");
    for joined in ["D", "d.", "d%", "d_"] {
        assert_eq!(get(&store, joined).await, Some(sample(joined)));
    }
}

pub async fn of_concurrent_creates_one_wins(store: Store) {
    let outcomes = race(|n| {
        let store = Arc::clone(&store);
        async move {
            let mut new = sample("d");
            new.etag = format!("etag of {n}");
            (new.clone(), store.identity_create(new).await)
        }
    });
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.await.into_iter().partition(|(_, o)| o.is_ok());
    assert_eq!(won.len(), 1);
    assert!(lost.iter().all(|(_, o)| matches!(o, Err(StoreError::AlreadyExists))));
    assert_eq!(get(&store, "d").await.as_ref(), won.first().map(|(new, _)| new));
}

pub async fn device_list_is_ordered_and_bounded(store: Store) {
    for joined in ["b", "a", "a-", "B", "c"] {
        create(&store, joined).await;
    }
    create(&store, "a/m").await;
    let list = async |top| listed(&store, "", top).await;
    assert_eq!(list(10).await, ["B", "a", "a-", "b", "c"]);
    assert_eq!(list(2).await, ["B", "a"]);
    assert!(list(0).await.is_empty());
    assert_eq!(store.device_list("", 1).await.expect("list"), [sample("B")]);
}

pub async fn device_list_goes_on_after_an_id(store: Store) {
    for joined in ["b", "a", "a-", "B", "c", "a/m"] {
        create(&store, joined).await;
    }
    assert_eq!(listed(&store, "B", 10).await, ["a", "a-", "b", "c"]);
    assert_eq!(listed(&store, "a", 2).await, ["a-", "b"]);
    assert_eq!(
        listed(&store, "a,", 1).await,
        ["a-"],
        "there is no such device: what comes after its place"
    );
    assert_eq!(listed(&store, "A", 1).await, ["B"]);
    assert!(listed(&store, "c", 10).await.is_empty());
    assert!(listed(&store, "~", 10).await.is_empty());
    // Whatever the size of a page, all pages together hold every device once.
    for top in 1..=6 {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = listed(&store, &after, top).await;
            let Some(last) = page.last() else { break };
            after.clone_from(last);
            all.extend(page);
        }
        assert_eq!(all, ["B", "a", "a-", "b", "c"], "{top} a page");
    }
}

async fn listed(store: &Store, after: &str, top: usize) -> Vec<String> {
    let devices = store.device_list(after, top).await.expect("list");
    devices.iter().map(|device| device.id.as_str().to_owned()).collect()
}

pub async fn module_list_is_ordered_and_of_one_device(store: Store) {
    for joined in ["d", "e", "d/b", "d/a", "d/B", "e/c"] {
        create(&store, joined).await;
    }
    let modules = store.module_list("d").await.expect("list");
    assert_eq!(modules, [sample("d/B"), sample("d/a"), sample("d/b")]);
    assert!(store.module_list("none").await.expect("list").is_empty());
}

pub async fn replace_keeps_id_generation_and_version(store: Store) {
    let old = create(&store, "d").await;
    let mut new = old.clone();
    new.generation_id = "made up".into();
    new.auth_version = 99;
    new.etag = "etag 2".into();
    new.status_reason = None;
    new.status_updated = 5;
    let stored = store.identity_replace(new.clone(), etag("etag 1")).await.expect("replace");
    let want =
        StoredIdentity { generation_id: old.generation_id, auth_version: old.auth_version, ..new };
    assert_eq!(stored, want);
    assert_eq!(get(&store, "d").await, Some(want));
}

pub async fn replace_raises_the_version_with_status_and_credentials(store: Store) {
    let mut new = create(&store, "d").await;
    create(&store, "d/m").await;
    let mut want = new.auth_version;
    let changes: [fn(&mut StoredIdentity); 4] = [
        |i| i.status = Status::Disabled,
        |i| i.auth_type = "selfSigned".into(),
        |i| i.credentials = vec![9],
        |i| (i.status, i.auth_type) = (Status::Enabled, "sas".into()),
    ];
    for change in changes {
        change(&mut new);
        want += 1;
        let stored = store.identity_replace(new.clone(), IfMatch::Any).await.expect("replace");
        assert_eq!(stored.auth_version, want);
        let again = store.identity_replace(new.clone(), IfMatch::Any).await.expect("replace");
        assert_eq!(again.auth_version, want, "nothing differed");
    }
    assert_eq!(get(&store, "d/m").await, Some(sample("d/m")), "a module's is its own");
}

pub async fn replace_looks_for_the_id_before_the_etag(store: Store) {
    let missing = store.identity_replace(sample("d"), etag("wrong")).await;
    assert!(matches!(missing, Err(StoreError::NotFound)));
    let missing = store.identity_replace(sample("d"), IfMatch::Any).await;
    assert!(matches!(missing, Err(StoreError::NotFound)));
    let old = create(&store, "d").await;
    let mut new = old.clone();
    new.etag = "etag 2".into();
    let stale = store.identity_replace(new, etag("wrong")).await;
    assert!(matches!(stale, Err(StoreError::PreconditionFailed)));
    assert_eq!(get(&store, "d").await, Some(old));
}

pub async fn of_concurrent_replaces_under_an_etag_one_wins(store: Store) {
    create(&store, "d").await;
    let outcomes = race(|n| {
        let store = Arc::clone(&store);
        async move {
            let mut new = sample("d");
            new.etag = format!("etag of {n}");
            store.identity_replace(new, etag("etag 1")).await
        }
    });
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    assert!(lost.iter().all(|o| matches!(o, Err(StoreError::PreconditionFailed))));
    let won = won.into_iter().next().and_then(Result::ok);
    assert_eq!(get(&store, "d").await, won);
}

pub async fn concurrent_replaces_each_raise_the_version(store: Store) {
    let old = create(&store, "d").await;
    race(|n| {
        let store = Arc::clone(&store);
        async move {
            let mut new = sample("d");
            // Each differs from whatever it follows.
            new.credentials = n.to_le_bytes().to_vec();
            store.identity_replace(new, IfMatch::Any).await.expect("replace")
        }
    })
    .await;
    let stored = get(&store, "d").await.expect("stored");
    assert_eq!(stored.auth_version, old.auth_version + RACERS as u64);
}

pub async fn delete_takes_the_modules_along(store: Store) {
    for joined in ["d", "d/a", "d/b", "e", "e/a"] {
        create(&store, joined).await;
    }
    store.identity_delete(&id("d/a"), IfMatch::Any).await.expect("delete");
    assert_eq!(get(&store, "d/a").await, None);
    assert_eq!(get(&store, "d/b").await, Some(sample("d/b")), "a module goes alone");
    store.identity_delete(&id("d"), etag("etag 1")).await.expect("delete");
    assert_eq!(get(&store, "d").await, None);
    assert!(store.module_list("d").await.expect("list").is_empty());
    assert_eq!(get(&store, "e/a").await, Some(sample("e/a")));
    create(&store, "d").await;
    assert_eq!(get(&store, "d/b").await, None, "nothing comes back with the id");
}

pub async fn delete_tells_what_it_removed(store: Store) {
    let mut device = sample("d");
    device.auth_version = 40;
    store.identity_create(device.clone()).await.expect("create");
    for joined in ["d/b", "d/a", "d/c", "e"] {
        create(&store, joined).await;
    }
    for (joined, gone) in
        [("d/b", vec![sample("d/b")]), ("d", vec![device.clone(), sample("d/a"), sample("d/c")])]
    {
        let group = vec![IdentityWrite::Delete(id(joined), IfMatch::Any)];
        let written = store.identity_write(vec![group]).await.expect("written").remove(0);
        let removed = Removed { device_version: 40, identities: gone };
        assert_eq!(written.expect("deleted"), [Done::Deleted(removed)], "{joined}");
    }
}

pub async fn delete_looks_for_the_id_before_the_etag(store: Store) {
    for if_match in [IfMatch::Any, etag("wrong")] {
        let missing = store.identity_delete(&id("d"), if_match).await;
        assert!(matches!(missing, Err(StoreError::NotFound)));
    }
    create(&store, "d").await;
    create(&store, "d/m").await;
    for joined in ["d", "d/m"] {
        let stale = store.identity_delete(&id(joined), etag("wrong")).await;
        assert!(matches!(stale, Err(StoreError::PreconditionFailed)));
        assert_eq!(get(&store, joined).await, Some(sample(joined)));
    }
}

/// No module survives a delete of its device, whichever comes first.
pub async fn a_module_never_outlives_its_device(store: Store) {
    create(&store, "d").await;
    race(|n| {
        let store = Arc::clone(&store);
        async move {
            if n == RACERS / 2 {
                store.identity_delete(&id("d"), IfMatch::Any).await.expect("delete");
            } else {
                let module = store.identity_create(sample(&format!("d/{n}"))).await;
                assert!(matches!(module, Ok(()) | Err(StoreError::NotFound)));
            }
        }
    })
    .await;
    assert!(store.module_list("d").await.expect("list").is_empty());
}

pub async fn setting_init_keeps_the_first(store: Store) {
    assert_eq!(store.setting_init("a", b"first").await.expect("init"), b"first");
    assert_eq!(store.setting_init("a", b"second").await.expect("init"), b"first");
    assert_eq!(store.setting_init("A", b"").await.expect("init"), b"");
    assert_eq!(store.setting_init("A", b"late").await.expect("init"), b"");
}

pub async fn setting_replace_wants_what_is_stored(store: Store) {
    assert_eq!(store.setting_get("a").await.expect("get"), None);
    let missing = store.setting_replace("a", b"", b"new").await;
    assert!(matches!(missing, Err(StoreError::NotFound)));
    store.setting_init("a", b"1").await.expect("init");
    store.setting_replace("a", b"1", b"2").await.expect("replace");
    let stale = store.setting_replace("a", b"1", b"3").await;
    assert!(matches!(stale, Err(StoreError::PreconditionFailed)));
    assert_eq!(store.setting_get("a").await.expect("get").as_deref(), Some(&b"2"[..]));
    assert_eq!(store.setting_get("A").await.expect("get"), None);
}

pub async fn of_concurrent_setting_replaces_one_wins(store: Store) {
    store.setting_init("a", b"old").await.expect("init");
    let outcomes = race(|n| {
        let store = Arc::clone(&store);
        async move { store.setting_replace("a", b"old", &n.to_le_bytes()).await.is_ok() }
    });
    assert_eq!(outcomes.await.iter().filter(|won| **won).count(), 1);
}

pub async fn concurrent_setting_inits_agree(store: Store) {
    let outcomes = race(|n| {
        let store = Arc::clone(&store);
        async move { store.setting_init("key", &n.to_le_bytes()).await.expect("init") }
    });
    let outcomes = outcomes.await;
    assert!(outcomes.iter().all(|o| o == &outcomes[0]));
    assert!((0..RACERS).any(|n| outcomes[0] == n.to_le_bytes()));
}

pub async fn epoch_generations_never_repeat(store: Store) {
    assert_eq!(store.epoch_generation_next().await.expect("next"), 1);
    let mut taken = race(|_| {
        let store = Arc::clone(&store);
        async move { store.epoch_generation_next().await.expect("next") }
    })
    .await;
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), RACERS);
    let highest = taken.last().copied().unwrap_or_default();
    assert!(taken[0] > 1);
    assert!(store.epoch_generation_next().await.expect("next") > highest);
}

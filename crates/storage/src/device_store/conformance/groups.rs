//! Groups of writes, the limit of modules, and what is counted.

use dunlin_model::{Status, Twin, limits};

use super::{Store, create, etag, get, id, sample};
use crate::StoreError;
use crate::device_store::{Done, IdentityWrite, IfMatch, Statistics, Written};

fn outcomes(written: Vec<Written>) -> Vec<String> {
    let text = |written: Written| match written {
        Ok(done) => {
            let ids = done.iter().map(|one| match one {
                Done::Stored(stored) => stored.id.as_str(),
                Done::Deleted(_) => "-",
            });
            ids.collect::<Vec<_>>().join(" ")
        }
        Err(error) => format!("{error:?}"),
    };
    written.into_iter().map(text).collect()
}

pub async fn a_refused_group_changes_nothing_for_the_others(store: Store) {
    use IdentityWrite::{Delete, Replace};
    let new = |joined| IdentityWrite::Create(sample(joined), Twin::new(0));
    create(&store, "old").await;
    let mut disabled = sample("old");
    disabled.status = Status::Disabled;
    let written = store.identity_write(vec![
        vec![new("a"), new("a/m"), new("a/n")],
        // Its second write is refused, and takes the first and third with it.
        vec![new("b"), new("a"), new("c")],
        vec![new("none/m")],
        vec![Replace(disabled.clone(), etag("wrong"))],
        vec![Replace(disabled.clone(), etag("etag 1"))],
        // A later group sees what an earlier one did.
        vec![Delete(id("a/m"), IfMatch::Any), new("a/m2")],
        vec![Delete(id("missing"), IfMatch::Any)],
        Vec::new(),
    ]);
    let written = written.await.expect("written");
    assert_eq!(
        outcomes(written),
        [
            "a a/m a/n",
            "AlreadyExists",
            "NotFound",
            "PreconditionFailed",
            "old",
            "- a/m2",
            "NotFound",
            "",
        ]
    );
    for (joined, there) in
        [("a", true), ("b", false), ("c", false), ("a/m", false), ("a/n", true), ("a/m2", true)]
    {
        assert_eq!(get(&store, joined).await.is_some(), there, "{joined}");
    }
    assert_eq!(get(&store, "old").await.map(|old| old.status), Some(Status::Disabled));
}

pub async fn a_device_has_a_limited_number_of_modules(store: Store) {
    create(&store, "d").await;
    create(&store, "d/$edgeAgent").await;
    for n in 0..limits::MODULES_PER_DEVICE {
        create(&store, &format!("d/{n}")).await;
    }
    let refused = store.identity_create(sample("d/more")).await;
    assert!(matches!(refused, Err(StoreError::LimitReached)));
    // The system modules have their own place; another device has its own fifty.
    create(&store, "d/$edgeHub").await;
    create(&store, "e").await;
    create(&store, "e/more").await;
    store.identity_delete(&id("d/0"), IfMatch::Any).await.expect("delete");
    create(&store, "d/more").await;
}

pub async fn statistics_count_devices(store: Store) {
    assert_eq!(store.device_statistics().await.expect("count"), Statistics::default());
    for joined in ["a", "b", "c", "a/m"] {
        create(&store, joined).await;
    }
    let mut module = sample("a/m");
    module.status = Status::Disabled;
    store.identity_replace(module, IfMatch::Any).await.expect("replace");
    let count = async || {
        let counted = store.device_statistics().await.expect("count");
        (counted.devices, counted.disabled)
    };
    assert_eq!(count().await, (3, 0));
    let mut device = sample("b");
    device.status = Status::Disabled;
    store.identity_replace(device, IfMatch::Any).await.expect("replace");
    assert_eq!(count().await, (3, 1));
    store.identity_delete(&id("b"), IfMatch::Any).await.expect("delete");
    assert_eq!(count().await, (2, 0));
}

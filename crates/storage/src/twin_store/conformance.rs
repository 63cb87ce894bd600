//! What every `TwinStore` must do: one function per part of its specification. Each wants a store
//! of its own, empty, beside the `DeviceStore` on the same data.

use std::sync::Arc;

use dunlin_model::json::Object;
use dunlin_model::twin::{Limits, Report, Update};
use dunlin_model::{ErrorCode, Identity, Session, Twin};
use serde_json::{Value, json};

use super::{StoredTwin, TwinStore, Updated};
use crate::device_store::conformance::{RACERS, race, sample};
use crate::device_store::{ConnectionReport, IdentityWrite, IfMatch};
use crate::{DeviceStore, StoreError};

/// Two ports on the same data.
#[derive(Clone)]
pub struct Stores {
    pub devices: Arc<dyn DeviceStore>,
    pub twins: Arc<dyn TwinStore>,
}

const NOW: i64 = 1_485_907_200_000;

fn id(joined: &str) -> Identity {
    Identity::parse(joined).expect("a valid id")
}

/// A merge of tags and desired properties.
pub fn update(tags: Value, desired: Value) -> Update {
    under(None, tags, desired)
}

fn under(if_match: Option<&str>, tags: Value, desired: Value) -> Update {
    let [tags, desired] = [tags, desired].map(|part| part.to_string().into_bytes());
    let if_match = if_match.map(str::to_owned);
    Update::read(if_match, false, Some(&tags), Some(&desired), &Limits::default()).expect("sound")
}

fn report(patch: Value, if_version: Option<u64>) -> Report {
    let patch = patch.to_string();
    Report::read(patch.as_bytes(), if_version, &Limits::default()).expect("sound")
}

fn object(value: Value) -> Object {
    serde_json::from_value(value).expect("an object")
}

impl Stores {
    async fn create(&self, joined: &str) {
        self.devices.identity_create(sample(joined)).await.expect("create");
    }

    async fn get(&self, joined: &str) -> Option<StoredTwin> {
        self.twins.twin_get(&id(joined)).await.expect("get")
    }

    async fn twin(&self, joined: &str) -> Twin {
        self.get(joined).await.expect("it exists").twin
    }

    async fn update(&self, joined: &str, update: Update) -> Result<Updated, StoreError> {
        self.twins.twin_update(&id(joined), update, NOW, &Limits::default()).await
    }

    async fn report(&self, joined: &str, report: Report) -> Result<u64, StoreError> {
        self.twins.twin_report(&id(joined), report, NOW, &Limits::default()).await
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, StoreError>, want: ErrorCode) {
    match outcome {
        Err(StoreError::Refused(error)) => assert_eq!(error.code, want, "{error}"),
        other => panic!("not refused: {other:?}"),
    }
}

pub async fn a_twin_comes_and_goes_with_its_identity(stores: Stores) {
    assert_eq!(stores.get("d").await, None);
    for joined in ["d", "d/m", "d/n", "e"] {
        stores.create(joined).await;
        assert_eq!(stores.twin(joined).await, Twin::new(0), "{joined}");
    }
    for (n, joined) in ["d", "d/m", "d/n", "e"].into_iter().enumerate() {
        stores.update(joined, update(json!({}), json!({"n": n}))).await.expect("update");
    }
    for (n, joined) in ["d", "d/m", "d/n", "e"].into_iter().enumerate() {
        let twin = stores.twin(joined).await;
        assert_eq!(twin.desired.properties, object(json!({"n": n})), "each has its own");
    }
    stores.devices.identity_delete(&id("d/m"), IfMatch::Any).await.expect("delete");
    assert_eq!(stores.get("d/m").await, None);
    assert_eq!(stores.twin("d/n").await.desired.version, 2, "a module goes alone");
    stores.devices.identity_delete(&id("d"), IfMatch::Any).await.expect("delete");
    for joined in ["d", "d/n"] {
        assert_eq!(stores.get(joined).await, None, "{joined}");
    }
    assert_eq!(stores.twin("e").await.desired.version, 2);

    // What it is made with is stored with it; nothing of its predecessor comes back.
    let mut made = Twin::new(NOW);
    made.tags = object(json!({"made": true}));
    let group = vec![
        IdentityWrite::Create(sample("d"), made.clone()),
        IdentityWrite::Create(sample("d/m"), Twin::new(5)),
    ];
    let refused = vec![
        IdentityWrite::Create(sample("f"), made.clone()),
        IdentityWrite::Delete(id("e"), IfMatch::Any),
        IdentityWrite::Delete(id("none"), IfMatch::Any),
    ];
    let written = stores.devices.identity_write(vec![group, refused]).await.expect("written");
    assert!(written[0].is_ok() && written[1].is_err());
    assert_eq!(stores.twin("d").await, made);
    assert_eq!(stores.twin("d/m").await, Twin::new(5));
    assert_eq!(stores.get("f").await, None, "nothing is left of a refused group");
    assert_eq!(stores.twin("e").await.desired.version, 2, "nothing is gone by a refused group");
}

pub async fn what_does_not_exist_has_no_twin(stores: Stores) {
    stores.create("d").await;
    for joined in ["D", "d/m", "e"] {
        let missing = stores.update(joined, update(json!({}), json!({"a": 1}))).await;
        assert!(matches!(missing, Err(StoreError::NotFound)), "{joined}");
        let missing = stores.report(joined, report(json!({"a": 1}), Some(9))).await;
        assert!(matches!(missing, Err(StoreError::NotFound)), "{joined}");
        assert_eq!(stores.get(joined).await, None);
    }
}

pub async fn an_update_is_stored_as_it_is_answered(stores: Stores) {
    stores.create("d").await;
    let mut want = Twin::new(0);
    for change in [
        update(json!({"t": [1, {"x": "ä\u{1}\"\\"}]}), json!({"a": {"b": 1, "c": true}})),
        update(json!({}), json!({"a": {"b": null}, "d": 1})),
        update(json!({"t": null}), json!({})),
        update(json!({}), json!({})),
        Update::read(None, true, None, Some(br#"{"z":{}}"#), &Limits::default()).expect("sound"),
    ] {
        let told = want.update(&change, NOW, &Limits::default()).expect("sound");
        let got = stores.update("d", change).await.expect("update");
        assert_eq!((&got.stored.twin, &got.told), (&want, &told));
        assert_eq!(stores.get("d").await, Some(got.stored));
    }
    for patch in [json!({"a": {"b": 1}}), json!({}), json!({"a": null, "c": [false]})] {
        let patch = report(patch, None);
        want.report(&patch, NOW, &Limits::default()).expect("sound");
        assert_eq!(stores.report("d", patch).await.expect("report"), want.reported.version);
        assert_eq!(stores.twin("d").await, want);
    }
}

pub async fn numbers_and_strings_are_read_back_as_written(stores: Stores) {
    stores.create("d").await;
    let text = "\u{1}\u{7f}\u{2028}\u{ffff}😀'\"\\";
    let odd = json!({
        "integers": [-4_503_599_627_370_496i64, 0, 4_503_599_627_370_495i64],
        "doubles": [0.1, 1.0, -0.5, 5e-324, 1.797_693_134_862_315_7e308, 1e23, 0.3, 1e21, 123e-7],
        // A store that writes all digits of them must not give integers back.
        "whole": [4_503_599_627_370_496.0, 1e15, 1e16, -1e16, 1e18, 1.8e19, 1e20],
        "text": text,
        "": "",
    });
    stores.report("d", report(odd.clone(), None)).await.expect("report");
    let read = Value::Object(stores.twin("d").await.reported.properties);
    assert_eq!(read.to_string(), odd.to_string());
    // A change beside it leaves it so.
    stores.report("d", report(json!({"n": 1}), None)).await.expect("report");
    let mut read = stores.twin("d").await.reported.properties;
    read.remove("n");
    assert_eq!(Value::Object(read).to_string(), odd.to_string());
}

pub async fn a_refused_change_changes_nothing(stores: Stores) {
    stores.create("d").await;
    let first = update(json!({"a": 1}), json!({"a": 1}));
    let before = stores.update("d", first).await.expect("update").stored;
    let etag = before.twin.etag_text();
    let small = Limits { reported_bytes: 8, desired_bytes: 16, ..Limits::default() };
    refused(
        stores.update("d", under(Some("AAAAAAAAAAE="), json!({"b": 1}), json!({"b": 1}))).await,
        ErrorCode::PreconditionFailed,
    );
    refused(
        stores.report("d", report(json!({"b": 1}), Some(2))).await,
        ErrorCode::PreconditionFailed,
    );
    let large = update(json!({"b": 1}), json!({"b": 1}));
    refused(
        stores.twins.twin_update(&id("d"), large, NOW, &small).await,
        ErrorCode::ArgumentInvalid,
    );
    let large = report(json!({"a": 1}), None);
    refused(
        stores.twins.twin_report(&id("d"), large, NOW, &small).await,
        ErrorCode::ArgumentInvalid,
    );
    assert_eq!(stores.get("d").await, Some(before));

    let matching = under(Some(&etag), json!({}), json!({"b": 1}));
    let after = stores.update("d", matching).await.expect("it matches").stored.twin;
    assert_ne!(after.etag_text(), etag);
    assert_eq!(stores.report("d", report(json!({"b": 1}), Some(1))).await.expect("it matches"), 2);
}

/// A report that was on its way when its connection was taken over may come after the new one's.
pub async fn a_former_connection_does_not_report_after_a_newer_one(stores: Stores) {
    stores.create("d").await;
    let patch = |n: u64, epoch| report(json!({"n": n}), None).of_connection(epoch);
    for (n, epoch) in [(1, 7), (2, 7), (3, 9)] {
        assert_eq!(stores.report("d", patch(n, epoch)).await.expect("report"), n + 1);
    }
    let before = stores.twin("d").await;
    assert_eq!(before.reported_epoch, 9);
    let empty = report(json!({}), None).of_connection(7);
    for late in [patch(4, 7), patch(4, 8), patch(4, 1), empty] {
        refused(stores.report("d", late).await, ErrorCode::PreconditionFailed);
    }
    assert_eq!(stores.twin("d").await, before);
    // Who has no connection has no predecessor; it is nobody's successor either.
    assert_eq!(stores.report("d", patch(4, 0)).await.expect("report"), 5);
    assert_eq!(stores.report("d", patch(5, 9)).await.expect("report"), 6);
    refused(stores.report("d", patch(6, 8)).await, ErrorCode::PreconditionFailed);
    stores.update("d", update(json!({}), json!({"a": 1}))).await.expect("update");
    assert_eq!(stores.twin("d").await.reported_epoch, 9);

    // A device made anew has new connections.
    stores.devices.identity_delete(&id("d"), IfMatch::Any).await.expect("delete");
    stores.create("d").await;
    assert_eq!(stores.report("d", patch(1, 1)).await.expect("report"), 2);
}

pub async fn a_twin_is_read_beside_its_identity(stores: Stores) {
    stores.create("d").await;
    let session = Session { model_id: Some("dtmi:a;1".into()), ..Session::default() };
    let told = ConnectionReport::Session {
        id: id("d"),
        generation_id: sample("d").generation_id,
        epoch: 1,
        session: session.clone(),
        keep_subscriptions: false,
    };
    stores.devices.connections_record(vec![told]).await.expect("record");
    let mut want = sample("d");
    want.credentials = Vec::new();
    want.session = session;
    assert_eq!(stores.get("d").await.expect("it exists").identity, want);
    let updated = stores.update("d", update(json!({"a": 1}), json!({}))).await.expect("update");
    assert_eq!(updated.stored.identity, want);

    let mut changed = sample("d");
    changed.status_reason = Some("moved".into());
    stores.devices.identity_replace(changed, IfMatch::Any).await.expect("replace");
    let stored = stores.get("d").await.expect("it exists");
    assert_eq!(stored.twin, updated.stored.twin, "the twin is not the identity's to change");
    assert_eq!(stored.identity.status_reason.as_deref(), Some("moved"));
    let whole = stores.devices.identity_get(&id("d")).await.expect("get").expect("it exists");
    assert_eq!(whole.credentials, sample("d").credentials, "nor the other way round");
}

/// Updates and reports race: each is there at the end, and each had a version of its own.
pub async fn concurrent_changes_lose_nothing(stores: Stores) {
    stores.create("d").await;
    let versions = race(|n| {
        let stores = stores.clone();
        async move {
            let mine = json!({format!("k{n}"): n, "last": n});
            if n % 2 == 0 {
                let both = update(mine.clone(), mine);
                let updated = stores.update("d", both).await.expect("update");
                let told = updated.told.expect("desired properties changed");
                assert_eq!(told["$version"], updated.stored.twin.desired.version);
                (n, updated.stored.twin.desired.version)
            } else {
                (n, stores.report("d", report(mine, None)).await.expect("report"))
            }
        }
    })
    .await;
    let half = RACERS / 2;
    for odd in [0, 1] {
        let mut of_one: Vec<_> =
            versions.iter().filter(|(n, _)| n % 2 == odd).map(|(_, version)| *version).collect();
        of_one.sort_unstable();
        assert_eq!(of_one, (2..2 + half as u64).collect::<Vec<_>>());
    }
    let twin = stores.twin("d").await;
    assert_eq!((twin.etag, twin.version), (1 + half as u64, 2 + RACERS as u64));
    for n in 0..RACERS {
        let part = if n % 2 == 0 { &twin.desired.properties } else { &twin.reported.properties };
        assert_eq!(part[&format!("k{n}")], n);
        assert_eq!(n % 2 == 0, twin.tags.contains_key(&format!("k{n}")));
    }
}

pub async fn of_concurrent_updates_under_an_etag_one_wins(stores: Stores) {
    stores.create("d").await;
    let outcomes = race(|n| {
        let stores = stores.clone();
        async move { stores.update("d", under(Some("AAAAAAAAAAE="), json!({"n": n}), json!({}))).await }
    });
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.await.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for lost in lost {
        refused(lost, ErrorCode::PreconditionFailed);
    }
    let won = won.into_iter().next().and_then(Result::ok).map(|updated| updated.stored);
    assert_eq!(stores.get("d").await, won);
}

pub async fn a_reader_sees_no_half_of_an_update(stores: Stores) {
    stores.create("d").await;
    race(|n| {
        let stores = stores.clone();
        async move {
            if n % 2 == 0 {
                let n = json!({"n": n});
                stores.update("d", update(n.clone(), n)).await.expect("update");
            }
            let twin = stores.twin("d").await;
            assert_eq!(twin.tags, twin.desired.properties);
            assert_eq!(twin.desired.version, twin.etag);
        }
    })
    .await;
}

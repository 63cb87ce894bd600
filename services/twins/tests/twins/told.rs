//! What a connected device is told, and in which order.

use serde_json::json;

use super::*;

fn note(id: &str, patch: Value) -> Option<(String, Value)> {
    Some((id.to_owned(), patch))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_device_is_told_what_changed() {
    let mut hub = Hub::start().await;
    hub.connect("d").await;
    let replace = v1::UpdateTwinRequest { replace: true, ..desired("d", r#"{"b":2}"#) };
    let tags = Some(r#"{"t":1}"#.to_owned());
    for (request, want) in [
        (
            desired("d", r#"{"a":{"x":1},"b":2,"c":null}"#),
            Some(json!({"a": {"x": 1}, "b": 2, "c": null})),
        ),
        (desired("d", "{}"), None),
        (v1::UpdateTwinRequest { tags, ..desired("d", "{}") }, None),
        (desired("d/m", r#"{"not":"connected"}"#), None),
        (replace, Some(json!({"a": null}))),
    ] {
        let twin = hub.update(request).await.expect("updated");
        if let Some(mut want) = want {
            want["$version"] = json!(twin.desired.expect("desired").version);
            assert_eq!(soon(hub.told.recv()).await, note("d", want));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_told_of_versions_in_their_order() {
    const UPDATES: u64 = 32;
    let mut hub = Hub::start().await;
    hub.connect("d").await;
    hub.gateway.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut updates = tokio::task::JoinSet::new();
    for n in 0..UPDATES {
        let (mut client, request) =
            (hub.client.clone(), desired("d", &format!(r#"{{"k{n}":{n}}}"#)));
        updates.spawn(async move { code(client.update_twin(request).await).expect("updated") });
    }
    let mut copy = serde_json::Map::new();
    for version in 2..UPDATES + 2 {
        // The others have time to come in between.
        soon(hub.gateway.begun.acquire()).await.expect("open").forget();
        hub.gateway.gate.add_permits(1);
        let (_, mut patch) = soon(hub.told.recv()).await.expect("told");
        assert_eq!(patch["$version"], version);
        copy.append(patch.as_object_mut().expect("an object"));
    }
    soon(updates.join_all()).await;
    let read: Value =
        serde_json::from_str(&hub.properties("d").await.expect("read")).expect("JSON");
    assert_eq!(read["desired"], Value::Object(copy), "with the version of the last");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_told_also_when_the_caller_has_gone() {
    let mut hub = Hub::start().await;
    hub.connect("d").await;
    hub.connect("e").await;
    hub.gateway.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut client = hub.client.clone();
    let call = tokio::spawn(async move { client.update_twin(desired("d", r#"{"a":1}"#)).await });
    soon(hub.gateway.begun.acquire()).await.expect("open").forget();
    // The gateway is at it, so the change is stored: a GET sees what the device is not told yet.
    let read = hub.properties("d").await.expect("read");
    assert!(read.contains(r#""desired":{"$version":2,"a":1}"#), "{read}");
    call.abort();
    assert!(call.await.expect_err("it is gone").is_cancelled());

    // Another device is told meanwhile; of a second change of the same it is told afterwards.
    let mut client = hub.client.clone();
    let other = tokio::spawn(async move { client.update_twin(desired("e", r#"{"a":1}"#)).await });
    soon(hub.gateway.begun.acquire()).await.expect("open").forget();
    let mut client = hub.client.clone();
    let second = tokio::spawn(async move { client.update_twin(desired("d", r#"{"a":2}"#)).await });
    hub.gateway.gate.add_permits(3);
    soon(other).await.expect("no panic").expect("updated");
    soon(second).await.expect("no panic").expect("updated");
    let mut told = Vec::new();
    while told.len() < 3 {
        told.push(soon(hub.told.recv()).await.expect("told"));
    }
    told.retain(|(id, _)| id == "d");
    assert_eq!(
        told.into_iter().map(Some).collect::<Vec<_>>(),
        [note("d", json!({"a": 1, "$version": 2})), note("d", json!({"a": 2, "$version": 3}))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_told_is_told_again_before_what_came_after_it() {
    let mut hub = Hub::start().await;
    hub.connect("d").await;
    hub.gateway.failures.lock().expect("whole").0 = 2;
    let twin = hub.update(desired("d", r#"{"a":{"x":1}}"#)).await.expect("updated");
    assert_eq!(hub.get("d").await, Ok(twin), "the update stands");
    hub.update(desired("d", r#"{"a":null}"#)).await.expect("updated");
    hub.update(desired("d", r#"{"a":{"y":1}}"#)).await.expect("updated");
    for want in [
        json!({"a": {"x": 1}, "$version": 2}),
        json!({"a": null, "$version": 3}),
        json!({"a": {"y": 1}, "$version": 4}),
    ] {
        assert_eq!(soon(hub.told.recv()).await, note("d", want));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_told_is_disconnected() {
    let mut hub = Hub::start().await;
    hub.connect("d").await;
    // Three tries to tell; the second try to end succeeds.
    *hub.gateway.failures.lock().expect("whole") = (3, 1);
    hub.update(desired("d", r#"{"a":1}"#)).await.expect("updated");
    assert_eq!(soon(hub.told.recv()).await, note("d", Value::Null));
    hub.update(desired("d", r#"{"b":1}"#)).await.expect("updated");
    assert_eq!(soon(hub.told.recv()).await, note("d", json!({"b": 1, "$version": 3})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_hangs_holds_up_no_update() {
    let mut hub = Hub::start().await;
    hub.connect("d").await;
    hub.gateway.gate.forget_permits(Semaphore::MAX_PERMITS);
    for version in 2..5 {
        let twin = soon(hub.update(desired("d", r#"{"a":1}"#))).await.expect("updated");
        assert_eq!(twin.desired.expect("desired").version, version);
    }
    // It was never told: in the end it is to read its twin.
    assert_eq!(soon(hub.told.recv()).await, note("d", Value::Null));
    hub.gateway.gate.add_permits(8);
    hub.update(desired("d", r#"{"a":2}"#)).await.expect("updated");
    assert_eq!(soon(hub.told.recv()).await, note("d", json!({"a": 2, "$version": 5})));
}

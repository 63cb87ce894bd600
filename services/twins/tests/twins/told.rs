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
        // Who was told has been told by now.
        let told = hub.told.try_recv().ok();
        let version = twin.desired.expect("desired").version;
        let want = want.and_then(|mut patch| {
            patch["$version"] = json!(version);
            note("d", patch)
        });
        assert_eq!(told, want);
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

    // Another device's update does not wait for this one's turn, a second of the same does.
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
async fn an_update_stands_though_its_device_cannot_be_told() {
    let mut hub = Hub::start().await;
    hub.connect("d").await;
    *hub.gateway.broken.lock().expect("whole") = true;
    let twin = hub.update(desired("d", r#"{"a":1}"#)).await.expect("updated");
    assert_eq!(hub.get("d").await, Ok(twin));
    *hub.gateway.broken.lock().expect("whole") = false;
    hub.update(desired("d", r#"{"b":1}"#)).await.expect("updated");
    assert_eq!(hub.told.try_recv().ok(), note("d", json!({"b": 1, "$version": 3})));
}

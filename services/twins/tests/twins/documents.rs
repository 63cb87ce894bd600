//! What back ends and devices read and write.

use dunlin_model::ErrorCode as E;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_reads_what_it_wrote_beside_the_identity() {
    let hub = Hub::start().await;
    let new = hub.get("d").await.expect("a twin");
    assert_eq!((new.etag.as_str(), new.version), ("AAAAAAAAAAE=", 2));
    let of = new.identity.expect("an identity");
    assert_eq!((of.id.as_str(), of.etag.as_str(), of.authentication), ("d", "MQ==", None));
    assert_eq!(of.status_reason.as_deref(), Some("new"));
    assert_eq!(new.auth_type, "selfSigned");
    assert_eq!(
        new.thumbprints,
        Some(KeyPair { primary: "AB".into(), secondary: "CD".into() }.into())
    );

    let request = v1::UpdateTwinRequest {
        if_match: Some(new.etag),
        tags: Some(r#"{"site":"x"}"#.into()),
        ..desired("d", r#"{"a":{"b":1.50},"$version":9}"#)
    };
    let twin = hub.update(request).await.expect("updated");
    assert_eq!((twin.etag.as_str(), twin.version), ("AAAAAAAAAAI=", 3));
    assert_eq!(twin.tags, r#"{"site":"x"}"#);
    let section = twin.desired.clone().expect("desired");
    assert_eq!((section.version, section.properties.as_str()), (2, r#"{"a":{"b":1.5}}"#));
    let metadata: Value = serde_json::from_str(&section.metadata).expect("JSON");
    assert_eq!(metadata["a"]["b"]["$lastUpdatedVersion"], 2);
    assert_eq!(hub.get("d").await, Ok(twin));

    let replace = v1::UpdateTwinRequest { replace: true, ..desired("d", r#"{"c":{}}"#) };
    let twin = hub.update(replace).await.expect("replaced");
    assert_eq!(twin.tags, "{}", "what is not given is emptied");
    assert_eq!(twin.desired.expect("desired").properties, r#"{"c":{}}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_reads_what_is_wanted_and_reports() {
    let hub = Hub::start().await;
    hub.update(desired("d/m", r#"{"a":1}"#)).await.expect("updated");
    assert_eq!(hub.report("d/m", r#"{"b":[true],"c":null}"#, None).await, Ok(2));
    assert_eq!(hub.report("d/m", r#"{"b":"x"}"#, Some(2)).await, Ok(3));
    assert_eq!(hub.report("d/m", "{}", None).await, Ok(3));
    let want = r#"{"desired":{"$version":2,"a":1},"reported":{"$version":3,"b":"x"}}"#;
    assert_eq!(hub.properties("d/m").await.as_deref(), Ok(want));
    let want = r#"{"desired":{"$version":1},"reported":{"$version":1}}"#;
    assert_eq!(hub.properties("d").await.as_deref(), Ok(want), "a module has its own");
    let twin = hub.get("d/m").await.expect("a twin");
    assert_eq!((twin.etag.as_str(), twin.version), ("AAAAAAAAAAI=", 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_code_and_name_the_place() {
    let hub = Hub::start().await;
    for (id, want) in [
        ("x", E::DeviceNotFound),
        ("x/m", E::DeviceNotFound),
        ("d/x", E::ModuleNotFound),
        ("D", E::DeviceNotFound),
        ("", E::ArgumentInvalid),
        ("a b", E::ArgumentInvalid),
    ] {
        refused(hub.get(id).await, want);
        refused(hub.update(desired(id, r#"{"a":1}"#)).await, want);
        refused(hub.properties(id).await, want);
        refused(hub.report(id, r#"{"a":1}"#, Some(9)).await, want);
    }
    let before = hub.get("d").await.expect("a twin");
    for (patch, want) in [
        ("", "properties.reported: not JSON"),
        ("[1]", "properties.reported: must be a JSON object"),
        (r#"{"a":{"b":[{"c.d":1}]}}"#, "properties.reported.a.b[0].c.d: a key may not hold '.'"),
        (r#"{"a":{"b":1e999}}"#, "properties.reported.a.b: a number"),
        (r#"{"a":9007199254740993}"#, "properties.reported.a: an integer"),
    ] {
        let message = refused(hub.report("d", patch, None).await, E::ArgumentInvalid);
        assert!(message.starts_with(want), "{message}");
    }
    let large = format!(r#"{{"a":{:?}}}"#, vec!["x".repeat(4_000); 9]);
    let message = refused(hub.report("d", &large, None).await, E::ArgumentInvalid);
    assert_eq!(message, "properties.reported: it would have 36001 bytes, of at most 32768");
    let bad_tags = v1::UpdateTwinRequest { tags: Some("1".into()), ..desired("d", r#"{"a":1}"#) };
    let message = refused(hub.update(bad_tags).await, E::ArgumentInvalid);
    assert!(message.starts_with("tags: must be"), "{message}");
    refused(hub.report("d", r#"{"a":1}"#, Some(2)).await, E::PreconditionFailed);
    let stale = v1::UpdateTwinRequest {
        if_match: Some("AAAAAAAAAAI=".into()),
        ..desired("d", r#"{"a":1}"#)
    };
    refused(hub.update(stale).await, E::PreconditionFailed);
    assert_eq!(hub.get("d").await, Ok(before));
}

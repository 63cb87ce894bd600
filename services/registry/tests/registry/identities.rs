//! Create, read, replace, delete.

use dunlin_model::ErrorCode as E;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_created_with_keys_and_found_again() {
    let mut hub = Hub::start().await;
    let made = hub.create(device("d")).await.expect("created");
    let pair = keys(&made);
    assert_ne!(pair.primary, pair.secondary);
    assert_eq!(made.status(), v1::Status::Enabled);
    assert_eq!(made.status_updated, 0);
    assert_eq!(hub.get("d").await, Ok(made.clone()));
    refused(hub.create(device("d")).await, E::DeviceAlreadyExists);
    refused(hub.get("D").await, E::DeviceNotFound);

    let own = with_keys(&pair.secondary, &pair.primary);
    let given = hub.create(v1::Identity { authentication: own.clone(), ..device("own") }).await;
    assert_eq!(given.expect("created").authentication, own);
    let half = v1::Identity { authentication: with_keys(&pair.primary, ""), ..device("half") };
    refused(hub.create(half).await, E::ArgumentInvalid);
    refused(hub.create(device("a b")).await, E::ArgumentInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_made_again_is_another_one() {
    let mut hub = Hub::start().await;
    let first = hub.create(device("d")).await.expect("created");
    hub.delete("d", None).await.expect("deleted");
    let second = hub.create(device("d")).await.expect("created again");
    assert_ne!(first.generation_id, second.generation_id);
    assert_ne!(first.etag, second.etag);
    assert_ne!(keys(&first).primary, keys(&second).primary);
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_live_and_die_with_their_device() {
    let mut hub = Hub::start().await;
    refused(hub.create(device("d/m")).await, E::DeviceNotFound);
    refused(hub.get("d/m").await, E::DeviceNotFound);
    hub.create(device("d")).await.expect("created");
    refused(hub.get("d/m").await, E::ModuleNotFound);
    refused(hub.delete("d/m", None).await, E::ModuleNotFound);
    let module = hub.create(device("d/m")).await.expect("created");
    refused(hub.create(device("d/m")).await, E::ModuleAlreadyExistsOnDevice);
    let disabled = v1::Identity { status: v1::Status::Disabled.into(), ..device("d/m") };
    refused(hub.replace(disabled, None).await, E::ArgumentInvalid);

    let list = v1::ListModulesRequest { device_id: "d".into() };
    let modules = code(hub.client.list_modules(list.clone()).await).expect("listed");
    assert_eq!(modules.identities, [module]);
    hub.delete("d", None).await.expect("deleted");
    refused(code(hub.client.list_modules(list).await), E::DeviceNotFound);
    hub.create(device("d")).await.expect("created again");
    refused(hub.get("d/m").await, E::ModuleNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_holds_devices_in_order_and_a_page_at_most() {
    let mut hub = Hub::start().await;
    for id in ["b", "a", "a/m", "B"] {
        hub.create(device(id)).await.expect("created");
    }
    for (top, after, want, more) in [
        (0, "", &["B", "a", "b"][..], false),
        (1, "", &["B"], true),
        (2, "", &["B", "a"], true),
        (3, "", &["B", "a", "b"], false),
        (5_000, "", &["B", "a", "b"], false),
        (u32::MAX, "a", &["b"], false),
        (1, "B", &["a"], true),
        (1, "a", &["b"], false),
        (1, "b", &[], false),
    ] {
        let request = v1::ListDevicesRequest { top, after: after.to_owned() };
        let page = code(hub.client.list_devices(request).await).expect("listed");
        let ids: Vec<_> = page.devices.iter().map(|one| one.id.as_str()).collect();
        assert_eq!((ids.as_slice(), page.more), (want, more), "top={top} after={after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replace_needs_the_current_etag_and_keeps_what_is_left_out() {
    let mut hub = Hub::start().await;
    refused(hub.replace(device("d"), Some("x")).await, E::DeviceNotFound);
    let made = hub.create(device("d")).await.expect("created");
    refused(hub.replace(device("d"), Some("x")).await, E::PreconditionFailed);

    let disable = v1::Identity {
        status: v1::Status::Disabled.into(),
        status_reason: Some("stolen".into()),
        ..device("d")
    };
    let off = hub.replace(disable, Some(&made.etag)).await.expect("replaced");
    assert_eq!(off.authentication, made.authentication);
    assert_eq!(off.generation_id, made.generation_id);
    assert!(off.etag != made.etag && off.status_updated > 0);
    assert_eq!(hub.get("d").await, Ok(off.clone()));

    let bare = hub.replace(device("d"), None).await.expect("replaced");
    assert_eq!(bare.status(), v1::Status::Disabled, "left out: it stays disabled");
    assert_eq!(bare.status_reason, None, "left out: there is none");
    assert_eq!(bare.status_updated, off.status_updated);
    let empty = v1::Identity { authentication: with_keys("", ""), ..device("d") };
    let kept = hub.replace(empty.clone(), None).await.expect("replaced");
    assert_eq!(kept.authentication, made.authentication, "no keys given: they stay");

    let renew = v1::Authentication { renew_keys: true, ..with_keys("", "").expect("keys") };
    let renew = v1::Identity { authentication: Some(renew), ..device("d") };
    let renewed = keys(&hub.replace(renew, None).await.expect("replaced"));
    let old = keys(&made);
    assert!(renewed.primary != old.primary && renewed.secondary != old.secondary);

    let kind = Some(v1::authentication::Kind::None(v1::Empty {}));
    let none = v1::Authentication { kind, renew_keys: false };
    let changed = v1::Identity { authentication: Some(none), ..device("d") };
    hub.replace(changed, None).await.expect("replaced");
    let again = hub.replace(empty, None).await.expect("replaced");
    assert_ne!(again.authentication, made.authentication, "there were none to keep");

    refused(hub.delete("d", Some(&made.etag)).await, E::PreconditionFailed);
    hub.delete("d", Some(&again.etag)).await.expect("deleted");
    refused(hub.delete("d", None).await, E::DeviceNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_a_restart_but_under_another_master_key() {
    let mut hub = Hub::start().await;
    let made = hub.create(device("d")).await.expect("created");
    let owner = hub.policy_key("iothubowner").await;
    let folder = as_a_crash_leaves_it(&hub.folder);
    let mut hub = Hub { client: open(&folder, [7; 32]).await.expect("opens"), folder };
    assert_eq!(hub.get("d").await, Ok(made));
    assert!(hub.policy_key("IotHubOwner").await == owner);
    let folder = as_a_crash_leaves_it(&hub.folder);
    let error = open(&folder, [8; 32]).await.err().expect("another key").to_string();
    assert!(error.contains("master key"), "{error}");
}

/// A copy: routes and mesh of a process hold each other, so its stores close with it only.
pub(super) fn as_a_crash_leaves_it(folder: &TempDir) -> TempDir {
    let copy = TempDir::new().expect("a folder");
    for entry in folder.path().read_dir().expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
    }
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_start_at_once_agree_on_the_policies() {
    let folder = TempDir::new().expect("a folder");
    let data = DataFolder::open(folder.path()).expect("a data folder");
    let store = Arc::new(SqliteDeviceStore::new(data.sqlite()));
    let (one, other) = tokio::join!(serve(store.clone(), [7; 32]), serve(store, [7; 32]));
    let mut keys = Vec::new();
    for client in [one, other] {
        let mut client = client.expect("a registry");
        let policy = client.get_policy(v1::GetPolicyRequest { name: "service".into() }).await;
        keys.push(policy.expect("a policy").into_inner().primary_key);
    }
    assert_eq!(keys[0], keys[1]);
}

//! `dunlin device renew-key`, `dunlin module …` and `dunlin policy …`.

use std::path::Path;

use dunlin_auth::{ConnectionString, SasToken};
use dunlin_model::Twin;
use dunlin_storage::DeviceStore;
use dunlin_storage::device_store::{IdentityWrite, SqliteDeviceStore};
use dunlin_storage::sqlite::DataFolder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Up, ask, bad, dunlin, good};
use crate::registry_scale;

/// What a command prints as JSON.
#[track_caller]
fn told(data: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&good(&ask(data, arguments))).expect("JSON")
}

/// Primary and secondary key of an identity or a policy.
fn keys(shown: &Value) -> [String; 2] {
    let keys = shown.pointer("/authentication/symmetricKey").unwrap_or(shown);
    ["primaryKey", "secondaryKey"].map(|name| keys[name].as_str().expect("a key").to_owned())
}

fn hub_file(data: &Path) -> Value {
    let file = std::fs::read(data.join("hub.json")).expect("hub.json");
    serde_json::from_slice(&file).expect("JSON")
}

/// By whom the commands of this machine log in.
fn owner(file: &Value) -> ConnectionString {
    let text = file["owner_connection_string"].as_str().expect("a string");
    ConnectionString::parse(text).expect("a connection string")
}

#[test]
fn keys_are_renewed_and_change_places() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let _hub = Up::start(data, &[]);
    good(&ask(data, &["device", "create", "-d", "d"]));
    good(&ask(data, &["module", "create", "-d", "d", "-m", "m"]));
    for module in [&[][..], &["-m", "m"][..]] {
        let renew = |key: &str| {
            let arguments = ["device", "renew-key", "-d", "d", "--key", key, "--json"];
            keys(&told(data, &[&arguments, module].concat()))
        };
        let kind = if module.is_empty() { "device" } else { "module" };
        let show = || keys(&told(data, &[&[kind, "show", "-d", "d"], module].concat()));
        let [primary, secondary] = show();
        let swapped = renew("swap");
        assert_eq!(swapped, [secondary.clone(), primary.clone()]);
        let renewed = renew("primary");
        assert!(renewed[0] != secondary && renewed[1] == primary);
        let again = renew("secondary");
        assert!(again[0] == renewed[0] && again[1] != primary);
        let both = renew("both");
        assert!(both[0] != again[0] && both[1] != again[1] && both[0] != both[1]);
        assert_eq!(show(), both);
    }
    let said = good(&ask(data, &["device", "renew-key", "-d", "d", "--key", "both"]));
    assert!(said.contains("dunlin device connection-string -d d"), "{said}");
    bad(&ask(data, &["device", "renew-key", "-d", "d"]), 2, "--key");
    bad(&ask(data, &["device", "renew-key", "-d", "d", "--key", "third"]), 2, "swap");
    bad(&ask(data, &["device", "renew-key", "-d", "x", "--key", "swap"]), 1, "DeviceNotFound");

    let thumbprint = "a1".repeat(20);
    let arguments = ["device", "create", "-d", "c", "--auth-method", "x509_thumbprint"];
    bad(&ask(data, &arguments), 2, "--primary-thumbprint");
    good(&ask(data, &[&arguments[..], &["--primary-thumbprint", &thumbprint]].concat()));
    let shown = told(data, &["device", "show", "-d", "c"]);
    assert_eq!(shown["authentication"]["type"], "selfSigned");
    bad(&ask(data, &["device", "renew-key", "-d", "c", "--key", "swap"]), 2, "selfSigned");
    let edge = told(data, &["device", "create", "-d", "e", "--edge-enabled", "--json"]);
    assert_eq!(edge["capabilities"]["iotEdge"], true);
    good(&ask(data, &["device", "create", "-d", "a", "--auth-method", "x509_ca"]));
    bad(&ask(data, &["device", "sas-token", "-d", "a"]), 2, "certificateAuthority");
}

#[test]
fn devices_are_updated_from_the_command_line() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let _hub = Up::start(data, &[]);
    let update = |more: &[&str]| ask(data, &[&["device", "update", "-d", "d"], more].concat());
    let updated = |more: &[&str]| -> Value {
        serde_json::from_str(&good(&update(&[more, &["--json"]].concat()))).expect("JSON")
    };
    good(&ask(data, &["device", "create", "-d", "d"]));
    let made = told(data, &["device", "show", "-d", "d"]);
    bad(&update(&[]), 2, "--auth-method");
    let off = updated(&["--status", "disabled", "--status-reason", "why"]);
    assert_eq!((&off["status"], &off["statusReason"]), (&"disabled".into(), &"why".into()));
    assert_eq!(keys(&off), keys(&made));
    for (flags, edge) in [
        (&["--edge-enabled"][..], true),
        (&["--edge-enabled", "false"], false),
        (&["--ee", "true"], true),
    ] {
        assert_eq!(updated(flags)["capabilities"]["iotEdge"], edge, "{flags:?}");
    }
    let new = ["cHJpbWFyeSBwcmltYXJ5IQ==", "c2Vjb25kYXJ5IHNlY29uZGFyeSE="];
    let given = updated(&["--primary-key", new[0], "--secondary-key", new[1]]);
    assert_eq!(keys(&given), new);
    assert_eq!(given["status"], "disabled", "what is not given stays");
    assert_eq!(keys(&updated(&["--auth-method", "shared_private_key"])), new);
    let made = keys(&updated(&["--primary-key", "", "--secondary-key", ""]));
    assert!(made[0] != new[0] && made[1] != new[1], "empty keys are made anew");
    bad(&update(&["--primary-key", new[0]]), 2, "--secondary-key");

    let [first, second, third] = ["a1", "b2", "c3"].map(|two| two.repeat(20));
    bad(&update(&["--primary-thumbprint", &first]), 2, "x509_thumbprint");
    bad(&update(&["--auth-method", "x509_thumbprint"]), 2, "--primary-thumbprint");
    let thumbprints = |shown: &Value| {
        let pair = &shown["authentication"]["x509Thumbprint"];
        assert_eq!(shown["authentication"]["type"], "selfSigned");
        [pair["primaryThumbprint"].clone(), pair["secondaryThumbprint"].clone()]
    };
    let shown = updated(&["--am", "x509_thumbprint", "--ptp", &first, "--stp", &second]);
    assert_eq!(thumbprints(&shown), [first.as_str(), &second]);
    assert_eq!(thumbprints(&updated(&["--primary-thumbprint", &third])), [&*third, &second]);
    bad(&update(&["--primary-key", new[0], "--secondary-key", new[1]]), 2, "shared_private_key");
    let ca = updated(&["--auth-method", "x509_ca"]);
    assert_eq!(ca["authentication"]["type"], "certificateAuthority");
    let fresh = updated(&["--auth-method", "shared_private_key"]);
    assert_ne!(keys(&fresh), new, "the hub made them");
    bad(&update(&["--auth-method", "x509_ca", "--etag", "x"]), 1, "PreconditionFailed");
}

#[test]
fn a_list_goes_on_until_its_end() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let fill = async {
        let store = SqliteDeviceStore::new(DataFolder::open(data).expect("a folder").sqlite());
        let new = (0..2_100)
            .map(|n| vec![IdentityWrite::Create(registry_scale::device(n), Twin::new(0))]);
        store.identity_write(new.collect()).await.expect("written");
    };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(fill);
    let _hub = Up::start(data, &[]);
    let list = |more: &[&str]| good(&ask(data, &[&["device", "list"], more].concat()));
    for (top, count) in [("-1", 2_100), ("1", 1), ("1000", 1_000), ("1500", 1_500), ("9999", 2_100)]
    {
        let want: Vec<_> = (0..count).map(registry_scale::name).collect();
        let table = list(&["--top", top]);
        let rows = table.lines().skip(1);
        let ids: Vec<_> = rows.map(|row| row.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(ids, want, "{top}");
        let listed = told(data, &["device", "list", "--json", "--top", top]);
        let listed = listed.as_array().expect("a list").iter();
        let ids: Vec<_> = listed.map(|one| one["deviceId"].as_str().expect("an id")).collect();
        assert_eq!(ids, want, "{top}");
    }
    assert_eq!(list(&[]).lines().count(), 2_101);
    let empty = TempDir::new().expect("a folder");
    let _empty = Up::start(empty.path(), &[]);
    assert_eq!(told(empty.path(), &["device", "list", "--json"]), json!([]));
    assert_eq!(good(&ask(empty.path(), &["device", "list"])).lines().count(), 1);
    for bad_top in ["0", "-2", "x"] {
        bad(&ask(data, &["device", "list", "--top", bad_top]), 2, "-1 for all");
    }
}

#[test]
fn the_commands_of_the_machine_follow_the_owners_key() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let _hub = Up::start(data, &[]);
    let key_in_file = || owner(&hub_file(data)).key.to_base64();
    let before = key_in_file();
    for key in ["primary", "secondary", "swap", "primary"] {
        let said = good(&ask(data, &["policy", "renew-key", "-n", "IotHubOwner", "--key", key]));
        assert!(said.contains("hub.json"), "{said}");
        let shown = told(data, &["policy", "show", "-n", "iothubowner"]);
        assert_eq!(keys(&shown)[0], key_in_file(), "{key}");
    }
    assert_ne!(before, key_in_file());
    let renewed =
        told(data, &["policy", "renew-key", "-n", "iothubowner", "--key", "primary", "--json"]);
    assert_eq!(keys(&renewed)[0], key_in_file());
    let said = good(&ask(data, &["policy", "renew-key", "-n", "service", "--key", "primary"]));
    assert!(!said.contains("hub.json"), "{said}");
}

#[test]
fn modules_are_managed_from_the_command_line() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let _hub = Up::start(data, &[]);
    let module = |command: &str, more: &[&str]| {
        ask(data, &[&["module", command, "-d", "d", "-m", "m"], more].concat())
    };
    bad(&module("create", &[]), 1, "dunlin device list");
    good(&ask(data, &["device", "create", "-d", "d"]));
    let said = good(&module("create", &[]));
    assert!(said.contains("dunlin module connection-string -d d -m m"), "{said}");
    bad(&module("create", &[]), 1, "ModuleAlreadyExists");
    bad(&ask(data, &["module", "create", "-d", "d", "-m", "a b"]), 2, "module id");
    bad(&ask(data, &["module", "create", "-d", "d"]), 2, "--module-id");
    bad(&ask(data, &["module", "show", "-d", "d", "-m", "n"]), 1, "dunlin module list");

    let shown: Value = serde_json::from_str(&good(&module("show", &[]))).expect("JSON");
    let [primary, secondary] = keys(&shown);
    let text = good(&module("connection-string", &["--key-type", "secondary"]));
    let parsed = ConnectionString::parse(&text).expect("a connection string");
    assert_eq!(parsed.key.to_base64(), secondary);
    assert!(text.contains(";DeviceId=d;ModuleId=m;"), "{text}");
    let token = good(&module("sas-token", &["--duration", "60"]));
    let token = SasToken::parse(token.trim()).expect("a token");
    assert!(token.policy().is_none());
    assert!(primary != secondary);

    let list = good(&ask(data, &["module", "list", "-d", "d"]));
    let words: Vec<_> = list.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(words, ["m", "Disconnected", "sas"]);
    let list = told(data, &["module", "list", "-d", "d", "--json"]);
    assert_eq!(list[0]["moduleId"], "m");
    bad(&ask(data, &["module", "list", "-d", "x"]), 1, "DeviceNotFound");

    bad(&module("update", &["--managed-by", "me", "--etag", "x"]), 1, "PreconditionFailed");
    bad(&module("update", &[]), 2, "--managed-by");
    let updated = good(&module("update", &["--managed-by", "me", "--json"]));
    let updated: Value = serde_json::from_str(&updated).expect("JSON");
    assert_eq!(updated["managedBy"], "me");
    assert_eq!(keys(&updated), [primary, secondary], "an update keeps the keys");

    let said = good(&module("update", &["--managed-by", ""]));
    assert_eq!(said, "d/m authenticates by sas and is managed by nobody\n");

    let thumbprints = |of: &Value| of["authentication"]["x509Thumbprint"].clone();
    let (first, second) = ("AB".repeat(20), "cd".repeat(32));
    let by = ["--auth-method", "x509_thumbprint", "--primary-thumbprint", &first];
    let said = good(&module("update", &[&by[..], &["--managed-by", "me"]].concat()));
    assert_eq!(said, "d/m authenticates by selfSigned and is managed by me\n");
    let updated = told(
        data,
        &["module", "update", "-d", "d", "-m", "m", "--secondary-thumbprint", &second, "--json"],
    );
    assert_eq!(updated["managedBy"], "me", "what is not named stays");
    let both = json!({"primaryThumbprint": first, "secondaryThumbprint": second});
    assert_eq!(thumbprints(&updated), both);
    bad(&module("update", &["--primary-thumbprint", "AB:CD"]), 1, "nothing between them");
    let said = good(&module("update", &["--auth-method", "x509_ca"]));
    assert_eq!(said, "d/m authenticates by certificateAuthority and is managed by me\n");
    good(&module("update", &["--auth-method", "shared_private_key"]));
    keys(&serde_json::from_str(&good(&module("show", &[]))).expect("JSON"));

    bad(&module("delete", &["--etag", "x"]), 1, "PreconditionFailed");
    good(&module("delete", &[]));
    bad(&module("delete", &[]), 1, "ModuleNotFound");
    assert_eq!(told(data, &["module", "list", "-d", "d", "--json"]), Value::Array(Vec::new()));
}

#[test]
fn policies_are_managed_from_the_command_line() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let hub = Up::start(data, &[]);
    let policy = |command: &str, more: &[&str]| {
        ask(data, &[&["policy", command, "-n", "backend"], more].concat())
    };
    let list = told(data, &["policy", "list", "--json"]);
    let names: Vec<_> = list.as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    for name in ["iothubowner", "service", "device", "registryRead", "registryReadWrite"] {
        assert!(names.iter().any(|known| *known == name), "{name} is not in {names:?}");
    }
    assert!(good(&ask(data, &["policy", "list"])).contains("RegistryRead, RegistryWrite"));

    bad(&policy("show", &[]), 1, "dunlin policy list");
    bad(&policy("create", &[]), 2, "--permissions");
    bad(&policy("create", &["--permissions", "Everything"]), 2, "ServiceConnect");
    let said = good(&policy("create", &["--permissions", "registryread", "ServiceConnect"]));
    assert!(said.contains("RegistryRead, ServiceConnect"), "{said}");
    bad(&policy("create", &["--permissions", "RegistryRead"]), 1, "dunlin policy show");
    let shown: Value = serde_json::from_str(&good(&policy("show", &[]))).expect("JSON");
    let [primary, secondary] = keys(&shown);
    let renew = |key: &str| -> Value {
        serde_json::from_str(&good(&policy("renew-key", &["--key", key, "--json"]))).expect("JSON")
    };
    assert_eq!(keys(&renew("swap")), [secondary.clone(), primary.clone()]);
    let renewed = keys(&renew("primary"));
    assert!(renewed[0] != secondary && renewed[1] == primary);

    // It permits what it says, from then until it is gone.
    let login = good(&policy("connection-string", &["--key-type", "secondary"]));
    let login = login.trim();
    assert!(login.contains(";SharedAccessKeyName=backend;"), "{login}");
    let login = login.replace("HostName=hub.example.com", "HostName=localhost");
    let ca = data.join("tls/ca.pem");
    let as_policy = |arguments: &[&str]| {
        let mut command = dunlin(arguments);
        command.env("DUNLIN_LOGIN", &login).env("DUNLIN_CA", &ca).output().expect("it runs")
    };
    good(&as_policy(&["device", "list"]));
    bad(&as_policy(&["device", "create", "-d", "d"]), 1, "IotHubUnauthorizedAccess");
    good(&as_policy(&["events", "monitor", "--timeout", "0"]));
    good(&policy("delete", &[]));
    bad(&policy("delete", &[]), 1, "dunlin policy list");
    bad(&as_policy(&["device", "list"]), 1, "IotHubUnauthorized");
    assert_eq!(hub.stop(), Some(0));
}

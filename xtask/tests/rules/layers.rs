//! Layers: `model → {auth, query, proto} → storage → runtime → services/* → services/dunlin`, each
//! may use those to its left only. So no service depends on another's crate, but for the binary.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Place of a crate in the order, by its folder. `None`: it has none.
fn layer(folder: &str) -> Option<u8> {
    Some(match folder {
        "crates/model" => 0,
        "crates/auth" | "crates/query" | "proto" => 1,
        "crates/storage" => 2,
        "crates/runtime" => 3,
        "services/dunlin" => 5,
        _ if folder.strip_prefix("services/").is_some_and(|name| !name.contains('/')) => 4,
        _ => return None,
    })
}

/// May the crate in folder `user` depend, in any way, on the one in `used`?
fn allowed(user: &str, used: &str) -> bool {
    match (user, layer(user), layer(used)) {
        // Apart: a device's side of things may use what is pure, and nothing may use it.
        ("loadtest", _, Some(used)) => used <= 1,
        (_, Some(user), Some(used)) => used < user,
        _ => false,
    }
}

/// Over `cargo metadata --no-deps`.
fn layers(metadata: &Value) -> Vec<String> {
    let root = metadata["workspace_root"].as_str().expect("metadata names the root");
    let folder = |manifest: &str| {
        let folder = manifest.trim_end_matches("Cargo.toml").trim_matches('/');
        folder.strip_prefix(root.trim_matches('/')).unwrap_or(folder).trim_matches('/').to_owned()
    };
    let packages = metadata["packages"].as_array().expect("metadata lists packages");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let folders: BTreeMap<_, _> = packages
        .iter()
        .map(|package| (text(&package["name"]), folder(&text(&package["manifest_path"]))))
        .collect();
    let mut violations = Vec::new();
    for package in packages {
        let user = &folders[&text(&package["name"])];
        if layer(user).is_none() && !["loadtest", "xtask"].contains(&user.as_str()) {
            violations.push(format!("{user}: has no layer, give it one in {}", file!()));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(used) = folders.get(&text(&dependency["name"])) else { continue };
            if !allowed(user, used) {
                violations.push(format!("{user}: may not depend on {used}"));
            }
        }
    }
    violations
}

#[test]
fn crates_depend_on_layers_to_their_left_only() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let args = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(cargo)
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    assert!(metadata["packages"].as_array().is_some_and(|packages| packages.len() > 1));
    let violations = layers(&metadata);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// Metadata of packages as (folder, folders it depends on).
fn metadata(packages: &[(&str, &[&str])]) -> Value {
    let packages = packages.iter().map(|(folder, uses)| {
        let uses = uses.iter().map(|used| serde_json::json!({ "name": used, "kind": "dev" }));
        serde_json::json!({
            "name": folder,
            "manifest_path": format!("/repo/{folder}/Cargo.toml"),
            "dependencies": uses.collect::<Vec<_>>(),
        })
    });
    serde_json::json!({ "workspace_root": "/repo", "packages": packages.collect::<Vec<_>>() })
}

#[test]
fn a_dependency_to_the_right_or_within_a_layer_is_found() {
    let none: &[&str] = &[];
    let found = layers(&metadata(&[
        ("crates/model", &["crates/auth"]),
        ("crates/auth", &["crates/model", "crates/query"]),
        ("crates/query", &["proto"]),
        ("proto", &["crates/model"]),
        ("crates/storage", &["crates/query", "crates/runtime"]),
        ("crates/runtime", &["crates/storage", "services/twins"]),
        ("services/twins", &["crates/runtime", "services/registry"]),
        ("services/registry", &["services/dunlin"]),
        ("services/dunlin", &["services/twins", "services/registry", "loadtest"]),
        ("loadtest", &["crates/auth", "crates/storage"]),
        ("xtask", &["crates/model"]),
        ("crates/new", none),
    ]));
    let expected = [
        "crates/model: may not depend on crates/auth",
        "crates/auth: may not depend on crates/query",
        "crates/query: may not depend on proto",
        "crates/storage: may not depend on crates/runtime",
        "crates/runtime: may not depend on services/twins",
        "services/twins: may not depend on services/registry",
        "services/registry: may not depend on services/dunlin",
        "services/dunlin: may not depend on loadtest",
        "loadtest: may not depend on crates/storage",
        "xtask: may not depend on crates/model",
        &format!("crates/new: has no layer, give it one in {}", file!()),
    ];
    assert_eq!(found, expected);
}

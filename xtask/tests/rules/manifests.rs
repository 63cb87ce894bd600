//! Manifests: versions in one place, the workspace's lints everywhere, no doc tests in services,
//! `anyhow` for the programs only.

use toml::{Table, Value};

use crate::repo::Repo;
use crate::{kept, planted};

/// The packages that may use `anyhow`.
const ANYHOW: [&str; 2] = ["services/dunlin", "loadtest"];

/// Dependencies of a manifest, of every kind and target.
fn dependencies(manifest: &Table) -> Vec<(&String, &Value)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let tables =
        targets.into_iter().flat_map(|targets| targets.values()).filter_map(Value::as_table);
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    std::iter::once(manifest)
        .chain(tables)
        .flat_map(|table| kinds.map(|kind| table.get(kind).and_then(Value::as_table)))
        .flatten()
        .flatten()
        .collect()
}

fn versions_in_one_place(repo: &Repo) -> Vec<String> {
    let mut violations = Vec::new();
    for (folder, manifest) in repo.members() {
        for (name, value) in dependencies(&manifest) {
            let inherits = value.get("workspace").and_then(Value::as_bool) == Some(true);
            if !inherits {
                violations.push(format!("{folder}/Cargo.toml: {name} must be `workspace = true`, its version belongs in the root's Cargo.toml"));
            }
        }
    }
    violations
}

#[test]
fn dependency_versions_are_in_the_workspace_only() {
    kept(versions_in_one_place);
    planted(
        versions_in_one_place,
        &[
            ("Cargo.toml", "[workspace.dependencies]\nserde = \"1\"\n"),
            (
                "a/Cargo.toml",
                "[dependencies]\nserde.workspace = true\n[dev-dependencies]\nrand = \"1\"\n",
            ),
            (
                "b/Cargo.toml",
                "[build-dependencies]\nc = { path = \"../c\" }\n[target.'cfg(unix)'.dependencies]\nnix = { version = \"1\" }\n",
            ),
            ("c/fuzz/Cargo.toml", "[workspace]\n[dependencies]\nlibfuzzer-sys = \"0.4\"\n"),
        ],
        &[
            "a/Cargo.toml: rand must be `workspace = true`, its version belongs in the root's Cargo.toml",
            "b/Cargo.toml: c must be `workspace = true`, its version belongs in the root's Cargo.toml",
            "b/Cargo.toml: nix must be `workspace = true`, its version belongs in the root's Cargo.toml",
        ],
    );
}

fn lints_inherited(repo: &Repo) -> Vec<String> {
    let inherits = |manifest: &Table| {
        manifest.get("lints").and_then(|lints| lints.get("workspace")?.as_bool()) == Some(true)
    };
    let missing = repo.members().filter(|(_, manifest)| !inherits(manifest));
    missing
        .map(|(folder, _)| format!("{folder}/Cargo.toml: lacks `[lints] workspace = true`"))
        .collect()
}

#[test]
fn every_member_inherits_the_lints() {
    kept(lints_inherited);
    planted(
        lints_inherited,
        &[
            ("a/Cargo.toml", "[lints]\nworkspace = true\n"),
            ("b/Cargo.toml", "[lints.rust]\nunsafe_code = \"allow\"\n"),
            ("c/Cargo.toml", "[package]\nname = \"c\"\n"),
        ],
        &[
            "b/Cargo.toml: lacks `[lints] workspace = true`",
            "c/Cargo.toml: lacks `[lints] workspace = true`",
        ],
    );
}

fn services_have_no_doc_tests(repo: &Repo) -> Vec<String> {
    let off = |manifest: &Table| {
        manifest.get("lib").and_then(|lib| lib.get("doctest")?.as_bool()) == Some(false)
    };
    let services = repo.members().filter(|(folder, _)| folder.starts_with("services/"));
    let libraries = services.filter(|(folder, manifest)| {
        manifest.contains_key("lib") || repo.text(&format!("{folder}/src/lib.rs")).is_some()
    });
    libraries
        .filter(|(_, manifest)| !off(manifest))
        .map(|(folder, _)| format!("{folder}/Cargo.toml: lacks `[lib] doctest = false`"))
        .collect()
}

#[test]
fn service_crates_build_no_doc_tests() {
    kept(services_have_no_doc_tests);
    planted(
        services_have_no_doc_tests,
        &[
            ("services/a/Cargo.toml", "[lib]\ndoctest = false\n"),
            ("services/a/src/lib.rs", ""),
            ("services/b/Cargo.toml", "[package]\nname = \"b\"\n"),
            ("services/b/src/lib.rs", ""),
            ("services/c/Cargo.toml", "[lib]\npath = \"c.rs\"\n"),
            ("services/program/Cargo.toml", "[package]\nname = \"program\"\n"),
            ("crates/d/Cargo.toml", "[package]\nname = \"d\"\n"),
            ("crates/d/src/lib.rs", ""),
        ],
        &[
            "services/b/Cargo.toml: lacks `[lib] doctest = false`",
            "services/c/Cargo.toml: lacks `[lib] doctest = false`",
        ],
    );
}

fn anyhow_in_programs_only(repo: &Repo) -> Vec<String> {
    let libraries = repo.members().filter(|(folder, _)| !ANYHOW.contains(folder));
    let using = libraries
        .filter(|(_, manifest)| dependencies(manifest).iter().any(|(name, _)| *name == "anyhow"));
    using
        .map(|(folder, _)| {
            format!("{folder}/Cargo.toml: anyhow is for {} only", ANYHOW.join(" and "))
        })
        .collect()
}

#[test]
fn anyhow_is_for_the_programs_only() {
    kept(anyhow_in_programs_only);
    let manifest = "[dependencies]\nanyhow.workspace = true\n";
    planted(
        anyhow_in_programs_only,
        &[
            ("services/dunlin/Cargo.toml", manifest),
            ("services/api/Cargo.toml", manifest),
            ("loadtest/Cargo.toml", manifest),
        ],
        &["services/api/Cargo.toml: anyhow is for services/dunlin and loadtest only"],
    );
}

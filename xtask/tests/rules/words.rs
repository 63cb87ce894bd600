//! Words that no tracked file may hold: paths of somebody's machine, hosts of package registries.

use crate::repo::Repo;
use crate::{kept, planted};

fn without_tilde(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.replace('~', "")).collect()
}

/// Every place of one of `words` that is not the tail of a longer path or name.
fn occurrences(repo: &Repo, words: &[&str], what: &str) -> Vec<String> {
    let words = without_tilde(words);
    let mut violations = Vec::new();
    for (path, text) in repo.files() {
        for (number, line) in text.lines().enumerate() {
            for word in &words {
                let alone = |at: usize| {
                    !line[..at].ends_with(|before: char| {
                        before.is_alphanumeric() || "._-}/)".contains(before)
                    })
                };
                if line.match_indices(word.as_str()).any(|(at, _)| alone(at)) {
                    violations.push(format!("{path}:{}: {what} {word}", number + 1));
                }
            }
        }
    }
    violations
}

fn no_machine_paths(repo: &Repo) -> Vec<String> {
    occurrences(repo, &["/wo~rk/", "/ro~ot/", "/ho~me/"], "path of a machine")
}

#[test]
fn no_file_holds_a_machines_path() {
    kept(no_machine_paths);
    planted(
        no_machine_paths,
        &[
            ("a.md", "one\nsee `/wo~rk/main` and /ro~ot/x\n"),
            ("b.sh", "cd \"/ho~me/me\"\n"),
            ("c.md", "https://example.org/ho~me/page, $HOME/wo~rk/x, src/ro~ot/mod.rs, ./wo~rk/\n"),
        ],
        &[
            "a.md:2: path of a machine /wo~rk/",
            "a.md:2: path of a machine /ro~ot/",
            "b.sh:1: path of a machine /ho~me/",
        ],
    );
}

fn no_registry_hosts(repo: &Repo) -> Vec<String> {
    let hosts = [
        "registry.npm~js.org",
        "registry.yarn~pkg.com",
        "files.python~hosted.org",
        "pypi~.org/simple",
        "index.crates~.io",
        "static.crates~.io",
        "proxy.go~lang.org",
        "repo.maven~.apache.org",
        "repo1.maven~.org",
        "deb.deb~ian.org",
    ];
    let mut violations = Vec::new();
    let hosts = without_tilde(&hosts);
    for (path, text) in repo.files() {
        let lines = text.lines().enumerate();
        let named = lines.filter_map(|(number, line)| {
            Some((number + 1, hosts.iter().find(|host| line.contains(host.as_str()))?))
        });
        violations.extend(
            named.map(|(number, host)| format!("{path}:{number}: host of a registry {host}")),
        );
    }
    violations
}

/// A lock file may not say where a package comes from: each machine has its own registries.
fn locks_name_no_source(repo: &Repo) -> Vec<String> {
    let crates_io = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let mut violations = Vec::new();
    for (path, text) in repo.files() {
        let name = path.rsplit('/').next().unwrap_or(path);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let named = match name {
                "Cargo.lock" => line.starts_with("source = ") && line != crates_io,
                "package-lock.json" => line.starts_with("\"resolved\":") && line.contains("://"),
                _ if name.starts_with("requirements") && name.ends_with(".txt") => {
                    line.starts_with('-') || line.contains("://")
                }
                "config.toml" if path.contains(".cargo/") => {
                    line.starts_with("[source") || line.starts_with("[registr")
                }
                _ => false,
            };
            if named {
                violations
                    .push(format!("{path}:{}: names where packages come from: {line}", number + 1));
            }
        }
    }
    violations
}

#[test]
fn no_file_names_a_registry() {
    kept(no_registry_hosts);
    kept(locks_name_no_source);
    planted(
        no_registry_hosts,
        &[
            ("a/package-lock.json", "\"resolved\": \"https://registry.npm~js.org/x\"\n"),
            ("b.md", "https://crates.io/crates/serde\n"),
        ],
        &["a/package-lock.json:1: host of a registry registry.npm~js.org"],
    );
    planted(
        locks_name_no_source,
        &[
            (
                "Cargo.lock",
                "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nsource = \"git+https://example.org/x\"\n",
            ),
            (
                "a/package-lock.json",
                "  \"resolved\": \"https://mirror.example/x.tgz\",\n  \"url\": \"https://github.com/sponsors/x\"\n",
            ),
            ("a/requirements.txt", "pytest==9\n--index-url https://mirror.example/\n"),
            (".cargo/config.toml", "[alias]\n[source.crates-io]\n"),
        ],
        &[
            ".cargo/config.toml:2: names where packages come from: [source.crates-io]",
            "Cargo.lock:2: names where packages come from: source = \"git+https://example.org/x\"",
            "a/package-lock.json:1: names where packages come from: \"resolved\": \"https://mirror.example/x.tgz\",",
            "a/requirements.txt:2: names where packages come from: --index-url https://mirror.example/",
        ],
    );
}

//! What a rule looks at: the text files of the repository, and its members' manifests.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// Path from the root, with `/`, to text. Files that are not UTF-8 are left out.
pub struct Repo {
    files: BTreeMap<String, String>,
}

impl Repo {
    pub fn of(files: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { files: files.into_iter().collect() }
    }

    /// The checkout these tests were built in: what git tracks or would track.
    pub fn real() -> &'static Self {
        static REAL: LazyLock<Repo> = LazyLock::new(|| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask has a parent");
            // The checkout may belong to another user, as in a container.
            let args = [
                "-c",
                "safe.directory=*",
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ];
            let listing =
                Command::new("git").args(args).current_dir(root).output().expect("git runs");
            assert!(listing.status.success(), "git: {}", String::from_utf8_lossy(&listing.stderr));
            let listing = String::from_utf8(listing.stdout).expect("paths are UTF-8");
            // A tracked file may have been removed: what cannot be read is not there.
            let read = |path: &str| {
                Some((path.to_owned(), std::fs::read_to_string(root.join(path)).ok()?))
            };
            let repo =
                Repo::of(listing.split('\0').filter(|path| !path.is_empty()).filter_map(read));
            assert!(repo.text("xtask/tests/rules/repo.rs").is_some(), "the tree holds this file");
            repo
        });
        &REAL
    }

    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    pub fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// Manifests of the workspace's members as (folder, manifest). A package with a `[workspace]`
    /// of its own, such as a fuzz target's, is no member.
    pub fn members(&self) -> impl Iterator<Item = (&str, toml::Table)> {
        self.files().filter_map(|(path, text)| {
            let folder = path.strip_suffix("/Cargo.toml")?;
            let manifest: toml::Table =
                text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
            (!manifest.contains_key("workspace")).then_some((folder, manifest))
        })
    }
}

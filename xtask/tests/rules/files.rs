//! Files: each says what it is, none grows too long, and ARCHITECTURE.md names the hot path's.

use std::collections::BTreeSet;

use crate::repo::Repo;
use crate::{kept, planted};

const MOST_LINES: usize = 600;
const HOT_PATH: &str = "//! HOT PATH";
const ARCHITECTURE: &str = "ARCHITECTURE.md";

fn opens_with_its_purpose(repo: &Repo) -> Vec<String> {
    let says = |text: &str| {
        text.lines()
            .next()
            .and_then(|line| line.strip_prefix("//!"))
            .is_some_and(|rest| !rest.trim().is_empty())
    };
    let silent = repo.rust().filter(|(_, text)| !says(text));
    silent.map(|(path, _)| format!("{path}: does not open with `//!` and what it is for")).collect()
}

#[test]
fn every_rust_file_opens_with_its_purpose() {
    kept(opens_with_its_purpose);
    planted(
        opens_with_its_purpose,
        &[
            ("a/src/lib.rs", "//! A thing.\n"),
            ("a/src/blank.rs", "\n//! Late.\n"),
            ("a/src/empty.rs", ""),
            ("a/build.rs", "fn main() {}\n"),
            ("a/tests/bare.rs", "//!\nfn f() {}\n"),
            ("a/notes.txt", "free\n"),
        ],
        &[
            "a/build.rs: does not open with `//!` and what it is for",
            "a/src/blank.rs: does not open with `//!` and what it is for",
            "a/src/empty.rs: does not open with `//!` and what it is for",
            "a/tests/bare.rs: does not open with `//!` and what it is for",
        ],
    );
}

fn short_enough(repo: &Repo) -> Vec<String> {
    let lengths = repo.rust().map(|(path, text)| (path, text.lines().count()));
    lengths
        .filter(|(_, lines)| *lines > MOST_LINES)
        .map(|(path, lines)| format!("{path}: {lines} lines, at most {MOST_LINES}"))
        .collect()
}

#[test]
fn no_rust_file_is_too_long() {
    kept(short_enough);
    let (fits, long) = ("x\n".repeat(MOST_LINES), "x\n".repeat(MOST_LINES + 1));
    planted(
        short_enough,
        &[("fits.rs", &fits), ("long.rs", &long), ("long.md", &long)],
        &["long.rs: 601 lines, at most 600"],
    );
}

/// Files in backticks in the sections of ARCHITECTURE.md whose heading says "hot path".
fn listed_as_hot(architecture: &str) -> BTreeSet<&str> {
    let mut listed = BTreeSet::new();
    // Level of the heading of the section we are in, if it is about the hot path.
    let mut within = None;
    for line in architecture.lines() {
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        if level > 0 {
            if within.is_none_or(|outer| level <= outer) {
                within = line.to_lowercase().contains("hot path").then_some(level);
            }
        } else if within.is_some() {
            listed.extend(line.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs")));
        }
    }
    listed
}

fn hot_path_is_listed(repo: &Repo) -> Vec<String> {
    let listed = listed_as_hot(repo.text(ARCHITECTURE).unwrap_or_default());
    let marked: BTreeSet<_> =
        repo.rust().filter(|(_, text)| text.starts_with(HOT_PATH)).map(|(path, _)| path).collect();
    let unlisted = marked.difference(&listed).map(|path| {
        format!("{path}: opens with `{HOT_PATH}`, but {ARCHITECTURE} does not list it")
    });
    let unmarked = listed
        .difference(&marked)
        .map(|path| format!("{ARCHITECTURE}: lists {path}, which does not open with `{HOT_PATH}`"));
    unlisted.chain(unmarked).collect()
}

#[test]
fn files_of_the_hot_path_are_those_of_architecture_md() {
    kept(hot_path_is_listed);
    let architecture = "# House\n`other.rs`\n## The hot path\n* `a/hot.rs` and `a/cold.rs`\n### Banned\n`a/gone.rs`: `Box`\n## More\n`b.rs`\n";
    planted(
        hot_path_is_listed,
        &[
            (ARCHITECTURE, architecture),
            ("a/hot.rs", "//! HOT PATH: telemetry.\n"),
            ("a/cold.rs", "//! Twins.\n"),
            ("a/new.rs", "//! HOT PATH: acks.\n"),
        ],
        &[
            "a/new.rs: opens with `//! HOT PATH`, but ARCHITECTURE.md does not list it",
            "ARCHITECTURE.md: lists a/cold.rs, which does not open with `//! HOT PATH`",
            "ARCHITECTURE.md: lists a/gone.rs, which does not open with `//! HOT PATH`",
        ],
    );
}

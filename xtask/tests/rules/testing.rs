//! Tests: none sleeps to wait for something to happen, none is left out.
//!
//! A bounded polling helper may sleep between two looks; its line, or the one above, says why in a
//! comment `sleep: reason`.

use crate::repo::Repo;
use crate::{kept, planted};

const CODE: [&str; 4] = [".rs", ".py", ".js", ".mjs"];

/// Lines of tests, numbered from 1: whole files under `tests` or named for it, and what follows
/// `#[cfg(test)]` in others.
fn test_lines<'a>(path: &str, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
    let for_tests = |part: &str| {
        let stem = part.split('.').next().unwrap_or(part);
        ["tests", "test", "testing", "testkit", "conformance"].contains(&stem)
            || stem.starts_with("test_")
            || stem.ends_with("_test")
            || stem.ends_with("_tests")
    };
    let code = CODE.iter().any(|suffix| path.ends_with(suffix));
    let whole = path.split('/').any(for_tests);
    let start = if whole {
        Some(0)
    } else {
        text.lines().position(|line| line.trim().starts_with("#[cfg(test)]"))
    };
    let start = start.filter(|_| code).unwrap_or(usize::MAX);
    text.lines().enumerate().filter(move |(at, _)| *at >= start).map(|(at, line)| (at + 1, line))
}

fn is_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("//")
        || (line.starts_with('#') && !line.starts_with("#["))
        || line.starts_with("* ")
}

/// Calls `sleep(…)`, by whatever path, or a relative of it.
fn sleeps(line: &str) -> bool {
    let word = |char: char| char.is_alphanumeric() || char == '_';
    let calls = ["sleep", "sleep_until", "sleep_ms"].map(|name| format!("{name}("));
    calls
        .iter()
        .any(|call| line.match_indices(call.as_str()).any(|(at, _)| !line[..at].ends_with(word)))
}

fn has_reason(line: &str) -> bool {
    let comment = line.split_once("// sleep:").or_else(|| line.split_once("# sleep:"));
    comment.is_some_and(|(_, reason)| !reason.trim().is_empty())
}

fn no_sleeping(repo: &Repo) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, text) in repo.files() {
        let mut above = "";
        for (number, line) in test_lines(path, text) {
            let excused = has_reason(line) || (is_comment(above) && has_reason(above));
            if !is_comment(line) && sleeps(line) && !excused {
                violations.push(format!("{path}:{number}: sleeps in a test: wait for the event with a deadline, or say `sleep: reason`"));
            }
            above = line;
        }
    }
    violations
}

#[test]
fn no_test_sleeps_to_wait() {
    kept(no_sleeping);
    let said = "sleeps in a test: wait for the event with a deadline, or say `sleep: reason`";
    planted(
        no_sleeping,
        &[
            (
                "a/src/lib.rs",
                "//! A.\nfn wait() { thread::sl~eep(D); }\n#[cfg(test)]\nmod tests {\n    tokio::time::sl~eep(D).await;\n}\n",
            ),
            ("a/src/backoff.rs", "//! B.\nasync fn wait() { tokio::time::sl~eep(D).await }\n"),
            (
                "a/tests/e2e/main.rs",
                "use std::thread::sleep;\n// sl~eep(1) is banned\nsl~eep(D);\nsl~eep_until(I).await;\nasl~eep(1);\n",
            ),
            (
                "a/tests/poll.rs",
                "// sl~eep: between two looks\nthread::sl~eep(D);\nthread::sl~eep(D); // sl~eep: so\nthread::sl~eep(D); // sl~eep:\n",
            ),
            (
                "tests/sdk/hub.py",
                "import time\ntime.sl~eep(1)\nawait asyncio.sl~eep(1)\ntime.sl~eep(1)  # sl~eep: poll\n",
            ),
            ("crates/s/src/event_log/conformance.rs", "//! C.\nthread::sl~eep(D);\n"),
            ("deploy/tests/notes.md", "sl~eep(1)\n"),
        ],
        &[
            &format!("a/src/lib.rs:5: {said}"),
            &format!("a/tests/e2e/main.rs:3: {said}"),
            &format!("a/tests/e2e/main.rs:4: {said}"),
            &format!("a/tests/poll.rs:4: {said}"),
            &format!("crates/s/src/event_log/conformance.rs:2: {said}"),
            &format!("tests/sdk/hub.py:2: {said}"),
            &format!("tests/sdk/hub.py:3: {said}"),
        ],
    );
}

fn none_left_out(repo: &Repo) -> Vec<String> {
    let marks = [
        "#[ign~ore",
        ", ign~ore)]",
        "mark.sk~ip",
        "pytest.sk~ip(",
        "importor~skip(",
        "mark.xf~ail",
        "pytest.xf~ail(",
    ];
    let marks = marks.map(|mark| mark.replace('~', ""));
    let mut violations = Vec::new();
    for (path, text) in
        repo.files().filter(|(path, _)| CODE.iter().any(|suffix| path.ends_with(suffix)))
    {
        for (at, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(mark.as_str())) {
                violations.push(format!("{path}:{}: leaves a test out: {mark}", at + 1));
            }
        }
    }
    violations
}

#[test]
fn no_test_is_left_out() {
    kept(none_left_out);
    planted(
        none_left_out,
        &[
            (
                "a/src/lib.rs",
                "#[test]\n#[ign~ore = \"slow\"]\nfn f() {}\n#[cfg_attr(unix, ign~ore)]\n",
            ),
            (
                "tests/sdk/test_x.py",
                "@pytest.mark.sk~ipif(x)\ndef f():\n    pytest.sk~ip('no server')\n",
            ),
            ("docs/testing.md", "never pytest.sk~ip(\n"),
        ],
        &[
            "a/src/lib.rs:2: leaves a test out: #[ign~ore",
            "a/src/lib.rs:4: leaves a test out: , ign~ore)]",
            "tests/sdk/test_x.py:1: leaves a test out: mark.sk~ip",
            "tests/sdk/test_x.py:3: leaves a test out: pytest.sk~ip(",
        ],
    );
}

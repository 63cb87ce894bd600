//! The repository's rules (docs/testing.md), each over the real tree and over planted violations.
//!
//! A rule is a function from a `Repo` to its violations, one a line, as `file: what is wrong` or
//! `file:line: what is wrong`.

mod files;
mod layers;
mod manifests;
mod repo;
mod testing;

mod words;

use repo::Repo;

type Rule = fn(&Repo) -> Vec<String>;

/// The real repository keeps the rule.
#[track_caller]
fn kept(rule: Rule) {
    let violations = rule(Repo::real());
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

/// A repository of these files alone has exactly these violations. `~` is left out of the files'
/// text: with it a plant does not violate here what it is to violate there.
#[track_caller]
fn planted(rule: Rule, files: &[(&str, &str)], expected: &[&str]) {
    let plain = |text: &str| text.replace('~', "");
    let repo = Repo::of(files.iter().map(|(path, text)| ((*path).to_owned(), plain(text))));
    let expected: Vec<_> = expected.iter().map(|line| plain(line)).collect();
    assert_eq!(rule(&repo), expected);
}

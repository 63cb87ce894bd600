//! docs/loadtest.md and the scenarios that are kept are what is read here.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

const PAGE: &str = include_str!("../../../docs/loadtest.md");

fn examples() -> Vec<&'static str> {
    let blocks = PAGE.split("```toml\n").skip(1);
    blocks.filter_map(|rest| rest.split_once("\n```").map(|(block, _)| block)).collect()
}

#[test]
fn every_example_of_the_page_is_a_scenario() -> Result<()> {
    assert!(!examples().is_empty());
    for example in examples() {
        Scenario::parse(example).and_then(|scenario| scenario.check()).context(example)?;
    }
    Ok(())
}

/// The fields that a parser would have taken in the place of `unknown`.
fn fields(text: &str) -> BTreeSet<String> {
    let error = format!("{:#}", Scenario::parse(text).expect_err(text));
    let expected = error.split_once("expected ").map_or("", |(_, expected)| expected);
    let names = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    assert!(names.len() > 1, "{text}: {error}");
    names
}

#[test]
fn the_page_names_every_field_and_word() {
    for text in [
        "unknown = 1",
        "[[devices]]\nunknown = 1",
        "[[devices]]\ntelemetry = { unknown = 1 }",
        "[[devices]]\ntelemetry = { rate = \"unknown\" }",
        "[[devices]]\nconnect = \"unknown\"",
        "[[devices]]\nprotocol = \"unknown\"",
        "[[devices]]\ntls = \"unknown\"",
        "[[devices]]\nauth = \"unknown\"",
        "[[devices]]\nretry = { unknown = 1 }",
        "[[devices]]\nreconnect = { unknown = 1 }",
        "[[devices]]\nc2d = { unknown = 1 }",
        "[[devices]]\nmisbehave = { unknown = 1 }",
        "[[devices]]\nmisbehave = { share = 1, kinds = [\"unknown\"] }",
        "[[backends]]\nunknown = 1",
        "[[backends]]\ndoes = \"unknown\"",
        "[[backends]]\ndoes = \"c2d\"\nrate = \"max\"\nack = \"unknown\"",
    ] {
        for field in fields(text) {
            let shown = [format!("{field} ="), format!("\"{field}\""), format!("[[{field}]]")];
            assert!(shown.iter().any(|shown| PAGE.contains(shown)), "docs/loadtest.md: {field}");
        }
    }
}

#[test]
fn every_scenario_that_is_kept_is_sound_and_named_in_the_page() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let scenario = Scenario::read(&path)?;
        scenario.check().with_context(|| path.display().to_string())?;
        assert!(!scenario.describe().is_empty());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(PAGE.contains(&format!("(../loadtest/scenarios/{name})")), "{name}");
        names.push(name);
    }
    assert!(names.len() >= 3, "{names:?}");
    Ok(())
}

//! Sums up what cargo test and pytest say about their tests.

/// Tests that passed and that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// One line of output: libtest's `test result:` or pytest's last line, if it is one.
pub fn of_line(line: &str) -> Option<Counts> {
    let line = without_colour(line);
    let line = line.trim();
    // `test result: ok. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s`
    if let Some(rest) = line.strip_prefix("test result:") {
        return Some(summed(rest.split(['.', ';'])));
    }
    // `==== 1 failed, 3 passed, 2 errors in 1.23s ====`, without the rulers under `-q`
    let line = line.trim_matches('=').trim();
    let (counts, time) = line.rsplit_once(" in ")?;
    let timed = time.split_whitespace().next()?.strip_suffix('s')?.parse::<f64>().is_ok();
    let worded = counts.split(", ").all(|part| part == "no tests ran" || word(part).is_some());
    (timed && worded).then(|| summed(counts.split(", ")))
}

/// `3 passed` as (3, "passed").
fn word(part: &str) -> Option<(u64, &str)> {
    let (number, word) = part.trim().split_once(' ')?;
    Some((number.parse().ok()?, word))
}

fn summed<'a>(parts: impl Iterator<Item = &'a str>) -> Counts {
    let mut counts = Counts::default();
    for (number, word) in parts.filter_map(word) {
        match word {
            "passed" => counts.passed += number,
            // What a test run leaves out counts against it: nothing here is allowed to skip.
            "failed" | "error" | "errors" | "skipped" | "ignored" | "xfailed" | "xpassed" => {
                counts.failed += number
            }
            _ => {}
        }
    }
    counts
}

fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        if char == '\u{1b}' {
            for skipped in chars.by_ref() {
                if skipped.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            plain.push(char);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_read_and_nothing_else_is() {
        for (line, expected) in [
            (
                "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.10s",
                Some((12, 0)),
            ),
            (
                "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
                Some((2, 1)),
            ),
            (
                "test result: \u{1b}[32mok\u{1b}[m. 7 passed; 0 failed; 1 ignored; 0 measured",
                Some((7, 1)),
            ),
            ("===== 1 failed, 3 passed, 2 errors in 61.30s (0:01:01) =====", Some((3, 3))),
            (
                "\u{1b}[32m====== \u{1b}[32m\u{1b}[1m4 passed\u{1b}[0m\u{1b}[32m in 0.52s\u{1b}[0m\u{1b}[32m ======\u{1b}[0m",
                Some((4, 0)),
            ),
            ("4 passed in 0.52s", Some((4, 0))),
            ("3 passed, 1 skipped, 2 warnings in 0.52s", Some((3, 1))),
            ("=== no tests ran in 0.01s ===", Some((0, 0))),
            ("test some::test ... ok", None),
            ("I put 3 passed in 5 bins", None),
            ("10 passed in the night", None),
            ("", None),
        ] {
            let expected = expected.map(|(passed, failed)| Counts { passed, failed });
            assert_eq!(of_line(line), expected, "{line}");
        }
    }
}

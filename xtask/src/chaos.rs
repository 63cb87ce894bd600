//! `cargo xtask chaos`: the kill test with as many rounds as reliability asks for (R2).

use crate::suite::cargo;
use crate::{Result, process};

pub struct Options {
    rounds: u32,
}

impl Options {
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut rounds = 100;
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--short" => rounds = 5,
                "--rounds" => {
                    let number = args
                        .next()
                        .and_then(|value| value.parse().ok())
                        .filter(|rounds| *rounds > 0);
                    rounds = number.ok_or("--rounds takes a number above 0")?;
                }
                other => return Err(format!("chaos takes no `{other}`")),
            }
        }
        Ok(Self { rounds })
    }
}

/// What a run of the kill test came to: its line `acked=N lost=N dup=N`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    line: String,
    acked: u64,
    lost: u64,
}

/// The verdict in a line of output. libtest may have begun the line itself (`test kill ... `).
fn verdict(line: &str) -> Option<Verdict> {
    let line = line[line.find("acked=")?..].trim();
    let value = |name: &str| {
        let mut words = line.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.parse::<u64>().ok())
    };
    value("dup=")?;
    Some(Verdict { line: line.to_owned(), acked: value("acked=")?, lost: value("lost=")? })
}

pub fn run(options: &Options) -> Result<bool> {
    let mut found = None;
    let mut kill = cargo(&[
        "test",
        "-p",
        "dunlin",
        "--test",
        "e2e",
        "kill",
        "--",
        "--nocapture",
        "--test-threads=1",
    ])?;
    let success =
        process::run(kill.env("DUNLIN_KILL_ROUNDS", options.rounds.to_string()), &mut |line| {
            found = verdict(line).or(found.take());
        })?;
    let Some(verdict) = found else {
        let what =
            if success { "printed no line `acked=N lost=N dup=N`" } else { "failed: see above" };
        return Err(format!("the kill test {what}"));
    };
    if verdict.acked == 0 {
        eprintln!("xtask: nothing was acknowledged, so nothing was tested");
    }
    println!("{}", verdict.line);
    Ok(success && verdict.lost == 0 && verdict.acked > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_found_in_what_libtest_prints() {
        let expected = Verdict { line: "acked=120 lost=1 dup=3".into(), acked: 120, lost: 1 };
        assert_eq!(verdict("acked=120 lost=1 dup=3"), Some(expected.clone()));
        assert_eq!(verdict("test kill::up ... acked=120 lost=1 dup=3 "), Some(expected));
        for line in ["acked=", "acked=1 lost=0", "acked=x lost=0 dup=0", "round 3: killed"] {
            assert_eq!(verdict(line), None, "{line}");
        }
    }
}

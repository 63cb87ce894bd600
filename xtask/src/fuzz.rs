//! `cargo xtask fuzz`: libFuzzer on what reads bytes of strangers, with the stable compiler.
//!
//! Not by cargo-fuzz, which would be one more thing to install: without sanitizers all it does is
//! to set these flags. It works on the same folder for who has it (`cargo fuzz run -s none`).

use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::{Result, process, workspace};

/// Coverage and comparisons for libFuzzer; what `cargo fuzz` sets for `-s none`.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions";

/// With the longest input that is tried.
const TARGETS: [(&str, u32); 8] = [
    ("sas", 4_096),
    ("bag", 4_096),
    ("username", 1_024),
    ("frame", 8_192),
    ("identity", 4_096),
    ("bulk", 4_096),
    ("segment", 4_096),
    ("twin", 4_096),
];

#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    targets: Vec<(&'static str, u32)>,
    seconds: u32,
}

impl Options {
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self { targets: Vec::new(), seconds: 60 };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--seconds" {
                let seconds = args.next().and_then(|text| text.parse().ok());
                options.seconds =
                    seconds.filter(|seconds| *seconds > 0).ok_or("--seconds wants a number")?;
            } else if let Some(target) = TARGETS.iter().find(|(name, _)| name == arg) {
                options.targets.push(*target);
            } else {
                let names = TARGETS.map(|(name, _)| name).join(", ");
                return Err(format!("no fuzz target `{arg}`: there are {names}"));
            }
        }
        if options.targets.is_empty() {
            options.targets = TARGETS.to_vec();
        }
        Ok(options)
    }
}

/// One target after the other, each for its time; stops at the first crash.
pub fn run(options: &Options) -> Result<bool> {
    let root = workspace::root()?;
    let target = workspace::target()?.join("fuzz");
    let triple = host()?;
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--manifest-path"]).arg(root.join("fuzz/Cargo.toml"));
    // Said out loud, so that build scripts and macros go without the flags.
    build.args(["--target", &triple]).env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", FLAGS);
    for (name, _) in &options.targets {
        build.args(["--bin", name]);
    }
    if !process::run_shown(&mut build)? {
        return Ok(false);
    }
    for (name, longest) in &options.targets {
        // What is found goes into the first folder; the seeds stay as they are.
        let (found, crashes) = (target.join("corpus").join(name), target.join("crashes"));
        for folder in [&found, &crashes] {
            fs::create_dir_all(folder)
                .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        }
        let began = Instant::now();
        let mut fuzz = Command::new(target.join(&triple).join("release").join(name));
        fuzz.arg(&found).arg(root.join("fuzz/corpus").join(name));
        fuzz.arg(format!("-artifact_prefix={}/{name}-", crashes.display()));
        fuzz.arg(format!("-max_total_time={}", options.seconds));
        fuzz.arg(format!("-max_len={longest}"));
        fuzz.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=1"]);
        println!("fuzz {name}: {} s", options.seconds);
        if !process::run_shown(&mut fuzz)? {
            let crashes = crashes.display();
            println!("fuzz {name}: FAILED; the input is in {crashes}/{name}-*");
            return Ok(false);
        }
        println!("fuzz {name}: no crash in {} s", began.elapsed().as_secs());
    }
    Ok(true)
}

fn host() -> Result<String> {
    let version = process::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn targets_and_their_time_are_read() {
        assert_eq!(parsed("").map(|options| options.targets.len()), Ok(TARGETS.len()));
        let one = parsed("bag --seconds 5").expect("sound");
        assert_eq!((one.targets, one.seconds), (vec![("bag", 4_096)], 5));
        for line in ["bog", "--seconds", "--seconds 0", "--seconds x"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}

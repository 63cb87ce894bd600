//! `cargo xtask test`: the steps in their order, the time each took, and one count over all.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::counts::{self, Counts};
use crate::servers::{self, Servers};
use crate::{Result, prepare, process, sdk, workspace};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Prepare,
    Fmt,
    Clippy,
    Cargo,
    Sdk,
}

const STEPS: [Step; 5] = [Step::Prepare, Step::Fmt, Step::Clippy, Step::Cargo, Step::Sdk];

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Cargo => "cargo",
            Self::Sdk => "sdk",
        }
    }

    fn named(name: &str) -> Result<Self> {
        let names: Vec<_> = STEPS.iter().map(|step| step.name()).collect();
        let step = STEPS.into_iter().find(|step| step.name() == name);
        step.ok_or_else(|| format!("no step `{name}`, there are {}", names.join(", ")))
    }
}

pub struct Options {
    only: Option<Step>,
    /// For the step's own tool.
    args: Vec<String>,
}

impl Options {
    pub fn parse(args: &[String]) -> Result<Self> {
        let (own, rest) = match args.iter().position(|arg| arg == "--") {
            Some(at) => (&args[..at], args[at + 1..].to_vec()),
            None => (args, Vec::new()),
        };
        let only = match own {
            [] => None,
            [flag, step] if flag == "--only" => Some(Step::named(step)?),
            [flag] if flag == "--only" => return Err("--only takes a step".into()),
            [other, ..] => return Err(format!("test takes no `{other}`")),
        };
        if only.is_none() && !rest.is_empty() {
            return Err("arguments behind -- belong to one step: name it with --only".into());
        }
        Ok(Self { only, args: rest })
    }

    fn steps(&self) -> Vec<Step> {
        match self.only {
            None => STEPS.to_vec(),
            Some(Step::Sdk) => vec![Step::Prepare, Step::Sdk],
            Some(step) => vec![step],
        }
    }
}

/// Runs the steps up to the first that fails. `Ok(false)` means that one did.
pub fn run(options: &Options) -> Result<bool> {
    let mut total = Counts::default();
    let mut times = Vec::new();
    let mut failure = None;
    for step in options.steps() {
        println!("==> {}", step.name());
        let start = Instant::now();
        let mut counts = Counts::default();
        let outcome = perform(step, options, &mut counts);
        let time = start.elapsed();
        total.add(counts);
        let reason = match outcome {
            Ok(true) if counts.failed == 0 => None,
            Ok(true) => Some("it left tests out".to_owned()),
            Ok(false) => Some("see above".to_owned()),
            Err(message) => Some(message),
        };
        println!(
            "<== {} {} in {}",
            step.name(),
            if reason.is_none() { "ok" } else { "FAILED" },
            seconds(time)
        );
        times.push(format!("{} {}", step.name(), seconds(time)));
        if let Some(reason) = reason {
            // A step without tests of its own, or one that ended before it had any.
            total.failed += u64::from(counts.failed == 0);
            failure = Some((step, reason));
            break;
        }
    }
    println!("\n{}", times.join(", "));
    if let Some((step, reason)) = &failure {
        println!("step {} failed: {reason}", step.name());
        println!("that step alone: cargo xtask test --only {}", step.name());
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(failure.is_none())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn perform(step: Step, options: &Options, counts: &mut Counts) -> Result<bool> {
    let args = &options.args;
    let mut count = |line: &str| {
        if let Some(found) = counts::of_line(line) {
            counts.add(found);
        }
    };
    match step {
        Step::Prepare => prepare::run().and_then(|()| servers::prepare()).map(|()| true),
        Step::Fmt => process::run_shown(cargo(&["fmt", "--all", "--check"])?.args(args)),
        Step::Clippy => {
            let mut clippy = cargo(&["clippy", "--workspace", "--all-targets"])?;
            process::run_shown(clippy.args(args).args(["--", "-D", "warnings"]))
        }
        // One failing test binary does not hide the next.
        Step::Cargo => {
            let servers = Servers::start()?;
            let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"])?;
            servers.show(&mut tests);
            process::run(tests.args(args), &mut count)
        }
        Step::Sdk => {
            let built = options.only.is_none();
            sdk::run(built, args, &mut count)
        }
    }
}

/// Cargo at the repository's root, into the target directory that this program came from.
pub fn cargo(args: &[&str]) -> Result<Command> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(workspace::root()?).env("CARGO_TARGET_DIR", workspace::target()?);
    // Set for this program by `cargo run`. Build scripts look at some of them (ring's at seven), and
    // whatever they built by a call without xtask would be built again.
    let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    });
    for name in ours {
        cargo.env_remove(name);
    }
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        cargo.env("CARGO_TERM_COLOR", "always");
    }
    Ok(cargo)
}

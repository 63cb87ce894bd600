//! `cargo xtask`: the repository's own commands. `cargo xtask --help` says which.
#![expect(clippy::print_stdout, reason = "a command-line tool prints")]

mod bench;
mod chaos;
mod cluster;
mod counts;
mod fuzz;
mod prepare;
mod process;
mod sdk;
mod server;
mod servers;
mod suite;
mod workspace;

use std::process::ExitCode;

/// What went wrong, as one message for a person.
type Result<T> = std::result::Result<T, String>;

const HELP: &str = "\
cargo xtask COMMAND

  test [--only STEP] [-- ARGS]   everything that must pass, in this order; stops at the first failing step
      prepare   installs what is missing: apt packages (as root), a Python venv and Node modules under target/
      fmt       cargo fmt --all --check
      clippy    cargo clippy --workspace --all-targets -- -D warnings
      cargo     cargo test --workspace (the repository's rules among them: cargo test -p xtask)
      sdk       the official SDKs and OpenSSL against target/debug/dunlin, as one process and as a cluster, each in a
                network namespace of its own
    --only STEP   that step alone; sdk prepares first
    -- ARGS       handed to the step's own tool: cargo xtask test --only sdk -- -k renewal [--shape cluster]
    The last line is `N passed, M failed`.

  cluster up                     a cluster on this machine: Postgres, Redis, Kafka, a process a role; ends by Ctrl-C
    --gateways N       gateways, which share the ports (2)
    --data FOLDER      hub.json, the development CA and the logs (dunlin-cluster); what the servers hold is gone in the end
    --config FILE      settings, as of `dunlin run`
    --hostname NAME, --bind ADDRESS, --mqtt-port PORT, --https-port PORT   as of `dunlin up`
    --admin-port PORT  of the first gateway; each other process has the next one (9600)
    --debug            the tests' build in place of a release build

  chaos [--rounds N] [--short]   kills `dunlin up` at random points and reads back what it acknowledged
    --rounds N    how often (100)
    --short       5 rounds
    The last line is `acked=N lost=N dup=N`; fails on a loss.

  bench c2d|connect|https|idle|latency|method|move|publish|registry|start|twin
                 measures release binaries, peers beside them (docs/measurements.md)
    --devices N   how many each has of its own otherwise
    --rounds N    idle: bursts (5); else turns of each server: method, registry (5), start (10), the others (3)
    --seconds S   of each turn of what goes on for a time (10)
    --cluster     c2d, method, publish, twin: of a cluster, in place of `dunlin up`; connect and latency are of one anyway
    --websocket   idle: devices connect over WebSocket
    --pin         c2d, https, idle, method, publish: the server on processor 0, the client on processor 1
    --x509        idle: devices show a certificate instead of a token

  fuzz [TARGET…] [--seconds N]   libFuzzer on what reads bytes of strangers (bag, bulk, frame, identity, sas, segment, twin, username)
    --seconds N   of each target (60)

Environment: DUNLIN_BIN (step sdk, cluster: take this binary and do not build), CARGO_TARGET_DIR;
step cargo, servers to use in place of our own: DUNLIN_TEST_POSTGRES, DUNLIN_TEST_REDIS with DUNLIN_TEST_REDIS_TLS,
DUNLIN_TEST_CA (of both), DUNLIN_TEST_KAFKA, DUNLIN_TEST_KAFKA_HOME (docs/testing.md).
Exit code: 0 passed, 1 failed, 2 usage. docs/testing.md says what runs where.
";

enum Command {
    Help,
    Test(suite::Options),
    Chaos(chaos::Options),
    Cluster(cluster::Options),
    Bench(bench::Options),
    Fuzz(fuzz::Options),
}

fn parse(args: &[String]) -> Result<Command> {
    let Some((command, rest)) = args.split_first() else {
        return Ok(Command::Help);
    };
    if rest.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--help" || arg == "-h") {
        return Ok(Command::Help);
    }
    match command.as_str() {
        "help" | "--help" | "-h" => Ok(Command::Help),
        "test" => suite::Options::parse(rest).map(Command::Test),
        "chaos" => chaos::Options::parse(rest).map(Command::Chaos),
        "cluster" => cluster::Options::parse(rest).map(Command::Cluster),
        "bench" => bench::Options::parse(rest).map(Command::Bench),
        "fuzz" => fuzz::Options::parse(rest).map(Command::Fuzz),
        other => Err(format!("no command `{other}`")),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match parse(&args) {
        Ok(Command::Help) => {
            print!("{HELP}");
            Ok(true)
        }
        Ok(Command::Test(options)) => suite::run(&options),
        Ok(Command::Chaos(options)) => chaos::run(&options),
        Ok(Command::Cluster(options)) => cluster::run(&options),
        Ok(Command::Bench(options)) => bench::run(&options),
        Ok(Command::Fuzz(options)) => fuzz::run(&options),
        Err(message) => {
            eprintln!("xtask: {message}; see cargo xtask --help");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&args)
    }

    #[test]
    fn commands_are_recognised() {
        assert!(matches!(parsed(""), Ok(Command::Help)));
        assert!(matches!(parsed("test --help"), Ok(Command::Help)));
        assert!(matches!(parsed("test"), Ok(Command::Test(_))));
        assert!(matches!(parsed("test --only sdk -- -h"), Ok(Command::Test(_))));
        assert!(matches!(parsed("chaos --short"), Ok(Command::Chaos(_))));
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for line in [
            "tset",
            "test --only nothing",
            "test fast",
            "test -- x",
            "chaos --rounds",
            "chaos --rounds 0",
            "chaos 5",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}

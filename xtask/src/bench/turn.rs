//! A turn of the loadtest against one server, and turns of two servers beside each other.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cluster::{Measured, SECONDS};
use super::peers::{Certificate, Hub, hub, mosquitto};
use super::{Bench, Options, median, number};
use crate::Result;
use crate::process::{output, run_shown};

/// What one turn of one server came to.
#[derive(Clone, Copy)]
pub struct Turn {
    pub rate: f64,
    pub server_us: f64,
    pub client_us: f64,
    pub p50: f64,
    pub p99: f64,
}

/// Creates the devices in a life of the hub before the one that is measured: what creating them
/// leaves in its heap would be room for what is measured.
pub fn create(bench: &Bench, data: &Path, certificate: &Certificate, devices: &str) -> Result<()> {
    let first = hub(bench, data, Some(certificate))?;
    let mut create = bench.client();
    create.args(["create", "--devices", devices]);
    create.env("DUNLIN_LOGIN", &first.login).env("DUNLIN_CA", &certificate.ca);
    certificate.show(&mut create);
    output(&mut create)?;
    first.server.stop()
}

/// A run of the loadtest with the devices of `create`.
pub fn with_hub(bench: &Bench, hub: &Hub, certificate: &Certificate) -> Command {
    let mut client = bench.client();
    client.args(["run", "--reuse", "--mqtt-port"]).arg(hub.mqtt_port.to_string());
    client.env("DUNLIN_LOGIN", &hub.login).env("DUNLIN_CA", &certificate.ca);
    certificate.show(&mut client);
    client
}

/// Work for so many seconds; with it the server's processes are watched.
pub fn turn(bench: &Bench, client: &mut Command, server: &[u32], seconds: &str) -> Result<Turn> {
    let report = bench.folder.join("report.json");
    client.args(["--warm-up", "2", "--hold", seconds]).arg("--json").arg(&report);
    for pid in server {
        client.args(["--watch", &pid.to_string()]);
    }
    if !run_shown(client)? {
        return Err("a message or a device did not come through: see above".into());
    }
    let json = fs::read_to_string(&report).map_err(|error| format!("no report: {error}"))?;
    // Latencies have the same names in every part: those of publishing come in their own.
    let latency = json.split_once("\"publish_ms\":").map_or("", |(_, rest)| rest);
    Ok(Turn {
        rate: number(&json, "messages_per_s")?,
        server_us: number(&json, "server_cpu_us_per_message")?,
        client_us: number(&json, "client_cpu_us_per_message")?,
        p50: number(latency, "p50")?,
        p99: number(latency, "p99")?,
    })
}

/// Turns of Mosquitto and of the hub, round by round.
pub struct Sides {
    pub mosquitto: Vec<Turn>,
    pub dunlin: Vec<Turn>,
    shape: &'static str,
}

impl Sides {
    /// `what` is of the loadtest's command line: the same for both. The hub is a cluster if the
    /// options say so.
    pub fn measure(
        bench: &Bench,
        options: &Options,
        devices: u32,
        rounds: u32,
        what: &[&str],
    ) -> Result<Self> {
        let certificate = Certificate::create(&bench.folder)?;
        let data = bench.folder.join("data");
        let count = options.devices.unwrap_or(devices).to_string();
        let seconds = options.seconds.unwrap_or(SECONDS).to_string();
        let what = [what, &["--rate", "max"]].concat();
        let cluster = options.cluster.then(|| Measured::start(bench, options, devices));
        let cluster = cluster.transpose()?;
        if cluster.is_none() {
            create(bench, &data, &certificate, &count)?;
        }
        let shape = if options.cluster { "cluster" } else { "dunlin up" };
        let mut sides = Self { mosquitto: Vec::new(), dunlin: Vec::new(), shape };
        for round in 1..=options.rounds.unwrap_or(rounds) {
            println!("\nround {round}: mosquitto");
            let (server, port) = mosquitto(bench, &certificate)?;
            let mut client = bench.client();
            client.arg("run").arg("--broker").arg(format!("localhost:{port}"));
            client.arg("--broker-ca").arg(&certificate.ca);
            client.args(["--devices", &count]).args(&what);
            sides.mosquitto.push(turn(bench, &mut client, &[server.pid()], &seconds)?);
            server.stop()?;

            println!("\nround {round}: {shape}");
            sides.dunlin.push(match &cluster {
                Some(cluster) => cluster.turn(bench, &what)?,
                None => {
                    let hub = hub(bench, &data, Some(&certificate))?;
                    let mut client = with_hub(bench, &hub, &certificate);
                    client.args(["--devices", &count]).args(&what);
                    let turn = turn(bench, &mut client, &[hub.server.pid()], &seconds)?;
                    hub.server.stop()?;
                    turn
                }
            });
        }
        cluster.map_or(Ok(()), Measured::stop)?;
        Ok(sides)
    }

    /// The hub's over Mosquitto's, median over the rounds.
    pub fn ratio(&self, part: fn(&Turn) -> f64) -> f64 {
        let each = |turns: &[Turn]| turns.iter().map(part).collect::<Vec<_>>();
        ratio(&each(&self.dunlin), &each(&self.mosquitto))
    }

    pub fn table(&self, shown: fn(&Turn) -> f64) {
        table(&[("mosquitto", &self.mosquitto), (self.shape, &self.dunlin)], shown);
    }
}

/// Medians of each server, every turn's `shown` in brackets.
pub fn table(rows: &[(&str, &[Turn])], shown: fn(&Turn) -> f64) {
    println!(
        "{:<12} {:>10} {:>11} {:>11} {:>8} {:>8}",
        "", "each/s", "server us", "client us", "p50 ms", "p99 ms"
    );
    for (name, turns) in rows {
        let of = |part: fn(&Turn) -> f64| median(&turns.iter().map(part).collect::<Vec<_>>());
        let each: Vec<_> = turns.iter().map(|turn| three_digits(shown(turn))).collect();
        println!(
            "{name:<12} {:>10.0} {:>11.2} {:>11.2} {:>8.2} {:>8.2}  [{}]",
            of(|turn| turn.rate),
            of(|turn| turn.server_us),
            of(|turn| turn.client_us),
            of(|turn| turn.p50),
            of(|turn| turn.p99),
            each.join(" ")
        );
    }
}

fn three_digits(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// Median over the rounds of what is `own` over what is the peer's.
pub fn ratio(own: &[f64], peer: &[f64]) -> f64 {
    median(&own.iter().zip(peer).map(|(own, peer)| own / peer).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_rounds() {
        assert_eq!(ratio(&[2.0, 30.0, 4.0], &[1.0, 10.0, 4.0]), 2.0);
        assert_eq!((three_digits(0.256), three_digits(1234.4)), ("0.26".into(), "1234".into()));
    }
}

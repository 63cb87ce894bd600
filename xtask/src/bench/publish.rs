//! Telemetry against Mosquitto (target P5): the same client, certificate and disk, in turn.

use std::fs;
use std::process::Command;

use super::peers::{Certificate, hub, mosquitto};
use super::{Bench, Options, median, number};
use crate::Result;
use crate::process::{output, run_shown};

const DEVICES: u32 = 1_000;
const SECONDS: u32 = 10;
const ROUNDS: u32 = 3;

/// What one turn of one server came to.
#[derive(Clone, Copy)]
struct Turn {
    rate: f64,
    server_us: f64,
    client_us: f64,
    p50: f64,
    p99: f64,
}

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let certificate = Certificate::create(&bench.folder)?;
    let data = bench.folder.join("data");
    let devices = options.devices.unwrap_or(DEVICES).to_string();
    let seconds = options.seconds.unwrap_or(SECONDS).to_string();

    let first = hub(bench, &data, Some(&certificate))?;
    let mut create = bench.client();
    create.args(["create", "--devices", &devices]);
    create.env("DUNLIN_LOGIN", &first.login).env("DUNLIN_CA", &certificate.ca);
    output(&mut create)?;
    first.server.stop()?;

    let turn = |pid: u32, client: &mut Command| -> Result<Turn> {
        let report = bench.folder.join("report.json");
        client.args(["--devices", &devices, "--rate", "max", "--window", "10", "--size", "256"]);
        client.args(["--no-subscribe", "--warm-up", "2", "--hold", &seconds]);
        client.arg("--watch").arg(pid.to_string()).arg("--json").arg(&report);
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
    };
    let (mut peer, mut own) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.unwrap_or(ROUNDS) {
        println!("\nround {round}: mosquitto");
        let (server, port) = mosquitto(bench, &certificate)?;
        let mut client = bench.client();
        client.arg("run").arg("--broker").arg(format!("localhost:{port}"));
        client.arg("--broker-ca").arg(&certificate.ca);
        peer.push(turn(server.pid(), &mut client)?);
        server.stop()?;

        println!("\nround {round}: dunlin up");
        let hub = hub(bench, &data, Some(&certificate))?;
        let mut client = bench.client();
        client.args(["run", "--reuse", "--mqtt-port"]).arg(hub.mqtt_port.to_string());
        client.env("DUNLIN_LOGIN", &hub.login).env("DUNLIN_CA", &certificate.ca);
        own.push(turn(hub.server.pid(), &mut client)?);
        hub.server.stop()?;
    }
    println!("\n{devices} TLS connections, 256 B, window 10, medians; each turn in brackets");
    println!(
        "{:<12} {:>10} {:>11} {:>11} {:>8} {:>8}",
        "", "messages/s", "server us", "client us", "p50 ms", "p99 ms"
    );
    for (name, turns) in [("mosquitto", &peer), ("dunlin up", &own)] {
        let of = |part: fn(&Turn) -> f64| median(&turns.iter().map(part).collect::<Vec<_>>());
        let each: Vec<_> = turns.iter().map(|turn| format!("{:.0}", turn.rate)).collect();
        println!(
            "{name:<12} {:>10.0} {:>11.2} {:>11.2} {:>8.1} {:>8.1}  [{}]",
            of(|turn| turn.rate),
            of(|turn| turn.server_us),
            of(|turn| turn.client_us),
            of(|turn| turn.p50),
            of(|turn| turn.p99),
            each.join(" ")
        );
    }
    let ratios = |part: fn(&Turn) -> f64| {
        let each: Vec<_> =
            peer.iter().zip(&own).map(|(peer, own)| part(own) / part(peer)).collect();
        median(&each)
    };
    println!(
        "dunlin / mosquitto, median over the rounds: messages/s {:.2}, server time a message {:.2}",
        ratios(|turn| turn.rate),
        ratios(|turn| turn.server_us)
    );
    Ok(true)
}

//! Latency of PUBACK on the cluster at three quarters of its highest rate, against a bare librdkafka
//! producer at the same rate on the same broker, in turn (target P6).

use std::path::Path;
use std::process::Command;

use super::cluster::{Measured, ROUNDS};
use super::turn::{ratio, table};
use super::{Bench, Options, median, number};
use crate::Result;
use crate::process::output;

const DEVICES: u32 = 1_000;
pub const PRODUCER: &str = "kafka_latency";

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let measured = Measured::start(bench, options, DEVICES)?;
    let what = ["--no-subscribe", "--window", "10", "--size", "256"];
    println!("\nthe highest rate");
    let highest = measured.turn(bench, &[&what[..], &["--rate", "max"]].concat())?.rate;
    let rate = format!("{:.0}", highest * 0.75);
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.unwrap_or(ROUNDS) {
        println!("\nround {round}: the cluster at {rate}/s");
        own.push(measured.turn(bench, &[&what[..], &["--rate", &rate]].concat())?);
        let bare = bare(&bench.binaries, &measured, &rate)?;
        println!(
            "round {round}: librdkafka at {:.0}/s: p50 {:.2} ms, p99 {:.2} ms",
            bare.rate, bare.p50, bare.p99
        );
        peer.push(bare);
    }
    let devices = measured.devices().to_owned();
    measured.stop()?;
    println!(
        "\n{devices} TLS connections, 256 B, {rate}/s of {highest:.0}, medians; p99 in brackets"
    );
    table(&[("cluster", &own)], |turn| turn.p99);
    let of = |part: fn(&Bare) -> f64| peer.iter().map(part).collect::<Vec<_>>();
    let (p50, p99) = (of(|bare| bare.p50), of(|bare| bare.p99));
    println!("librdkafka: p50 {:.2} ms, p99 {:.2} ms {p99:.2?}", median(&p50), median(&p99));
    let own_p50: Vec<_> = own.iter().map(|turn| turn.p50).collect();
    let own_p99: Vec<_> = own.iter().map(|turn| turn.p99).collect();
    println!(
        "cluster / librdkafka, median over the rounds: p50 {:.2}, p99 {:.2}",
        ratio(&own_p50, &p50),
        ratio(&own_p99, &p99)
    );
    Ok(true)
}

/// What the bare producer came to.
struct Bare {
    rate: f64,
    p50: f64,
    p99: f64,
}

fn bare(binaries: &Path, measured: &Measured, rate: &str) -> Result<Bare> {
    let mut producer = Command::new(binaries.join("examples").join(PRODUCER));
    let said = output(producer.arg(measured.kafka()?).args([rate, measured.seconds()]))?;
    Ok(Bare {
        rate: number(&said, "rate")?,
        p50: number(&said, "p50")?,
        p99: number(&said, "p99")?,
    })
}

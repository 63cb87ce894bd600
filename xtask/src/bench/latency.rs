//! Latency of PUBACK on the cluster at three quarters of the highest rate it sustains, against a bare
//! librdkafka producer at the same rate on the same broker, in turn (target P6).

use std::path::Path;
use std::process::Command;

use super::cluster::{Measured, ROUNDS};
use super::turn::{Turn, ratio, table};
use super::{Bench, Options, median, number};
use crate::Result;
use crate::process::output;

const DEVICES: u32 = 1_000;
const WHAT: [&str; 5] = ["--no-subscribe", "--window", "10", "--size", "256"];
/// Halvings of the range in which the highest rate lies: to a sixteenth of it.
const HALVINGS: u32 = 4;
/// Of the rate that is offered, what must be acknowledged in the same time for it to be sustained.
/// Less, and what waits grows for as long as it goes on.
const KEPT_UP: f64 = 0.99;
pub const PRODUCER: &str = "kafka_latency";

pub fn run(bench: &Bench, options: &Options) -> Result<bool> {
    let measured = Measured::start(bench, options, DEVICES)?;
    let highest = highest(bench, &measured)?;
    let rate = format!("{:.0}", highest * 0.75);
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.unwrap_or(ROUNDS) {
        println!("\nround {round}: the cluster at {rate}/s");
        own.push(at(bench, &measured, &rate)?);
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
        "\n{devices} TLS connections, 256 B, {rate}/s of {highest:.0} sustained, medians; p99 in brackets"
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

/// The highest rate that is sustained in an open loop, where devices send on a schedule of their own:
/// nearly all of what is due is acknowledged, turn by turn. A closed loop, in which a device sends
/// again when it is answered, makes big batches of everything, and so bounds it from above.
fn highest(bench: &Bench, measured: &Measured) -> Result<f64> {
    println!("\nthe highest rate of a closed loop");
    let closed = at(bench, measured, "max")?.rate;
    let (mut sustained, mut too_high) = (0.0, closed);
    for _ in 0..HALVINGS {
        let rate = f64::midpoint(sustained, too_high);
        let bound = if keeps_up(bench, measured, rate)? { &mut sustained } else { &mut too_high };
        *bound = rate;
    }
    match sustained {
        0.0 => Err(format!("not even {too_high:.0}/s was sustained: is the machine busy?")),
        sustained => Ok(sustained),
    }
}

/// In one of two turns: other work on the machine may spoil one.
fn keeps_up(bench: &Bench, measured: &Measured, rate: f64) -> Result<bool> {
    for _ in 0..2 {
        let turn = at(bench, measured, &format!("{rate:.0}"))?;
        let kept_up = turn.rate >= rate * KEPT_UP;
        let verdict = if kept_up { "sustained" } else { "too much" };
        println!(
            "\noffered {rate:.0}/s, acknowledged {:.0}/s, p99 {:.1} ms: {verdict}",
            turn.rate, turn.p99
        );
        if kept_up {
            return Ok(true);
        }
    }
    Ok(false)
}

fn at(bench: &Bench, measured: &Measured, rate: &str) -> Result<Turn> {
    measured.turn(bench, &[&WHAT[..], &["--rate", rate]].concat())
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

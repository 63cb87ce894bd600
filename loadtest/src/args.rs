//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::check;

#[derive(Debug, Parser)]
#[command(name = "dunlin-loadtest", version, about = "Simulates devices and measures the hub")]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connects devices, has them work, prints what came of it. Fails unless every device connected,
    /// every subscription was granted and every message was acknowledged.
    Run(Box<Run>),
    /// Creates the devices of a run and leaves them: `run --reuse` takes them.
    Create(Devices),
    /// Removes them.
    Remove(Devices),
    /// Proves by the histories of a run that what was acknowledged is there. Fails if anything is
    /// lost, out of order, or has ended twice.
    Check(check::Arguments),
    /// Reads the hub's event stream into a history, for `check`: of a run on several machines, or of
    /// one that was killed.
    Log(Log),
}

#[derive(Debug, Args)]
pub struct Devices {
    #[arg(long, default_value_t = 100)]
    pub devices: usize,
    /// Device ids are this and a number.
    #[arg(long, default_value = "load-")]
    pub prefix: String,
    #[command(flatten)]
    pub hub: Hub,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Devices, one connection each.
    #[arg(long, default_value_t = 100)]
    pub devices: usize,
    /// What the messages are.
    #[arg(long, value_enum, default_value_t = Work::Publish)]
    pub work: Work,
    /// Messages per second over all devices, or `max`: as fast as acknowledgements allow. Without
    /// it the devices stay silent.
    #[arg(long, value_parser = rate)]
    pub rate: Option<Rate>,
    /// Seconds that are measured, once every device is connected.
    #[arg(long, default_value_t = 10.0)]
    pub hold: f64,
    /// Seconds of publishing before what is measured.
    #[arg(long, default_value_t = 0.0)]
    pub warm_up: f64,
    /// Unacknowledged messages a device may have.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub window: u16,
    /// Bytes of a message's body; of the text in a report or a call.
    #[arg(long, default_value_t = 256)]
    pub size: usize,
    /// Rounds in which every device publishes one message at the same time.
    #[arg(long, default_value_t = 0)]
    pub burst: u32,
    /// Keep-alive in seconds.
    #[arg(long, default_value_t = 240)]
    pub keep_alive: u16,
    /// Drops the TLS state of a device once it is connected and keeps its socket: the server sees a
    /// silent device. It can neither publish nor ping, so its keep-alive is 1170.
    #[arg(long, conflicts_with_all = ["rate", "burst", "keep_alive"])]
    pub idle_drops_tls: bool,
    /// Over WebSocket, by the port of the connection string.
    #[arg(long, conflicts_with = "broker")]
    pub websocket: bool,
    /// Do not subscribe to C2D messages, methods, twin answers and desired properties.
    #[arg(long)]
    pub no_subscribe: bool,
    /// Devices that may be connecting at the same time.
    #[arg(long, default_value_t = 64)]
    pub connecting: usize,
    /// Client threads; 0: as many as there are processors.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Writes the report as one JSON object to this file; `-`: to standard output, instead of text.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Device ids are this and a number.
    #[arg(long, default_value = "load-")]
    pub prefix: String,
    /// Leaves the devices in the hub's registry.
    #[arg(long)]
    pub keep: bool,
    /// Takes the devices that `create` made with the same login and prefix, and leaves them.
    #[arg(long)]
    pub reuse: bool,
    /// Samples the memory and processor time of this process (the server) along the way.
    #[arg(long, value_name = "PID")]
    pub watch: Option<u32>,
    #[command(flatten)]
    pub hub: Hub,
    #[command(flatten)]
    pub broker: Broker,
}

#[derive(Debug, Args)]
pub struct Log {
    /// The file to write, which may not be there yet.
    pub history: PathBuf,
    /// Only of devices whose ids begin like this.
    #[arg(long, default_value = "load-")]
    pub prefix: String,
    /// Where to begin: start, end, or a time as 2026-01-31T12:00:00Z.
    #[arg(long, default_value = "start")]
    pub from: String,
    /// Ends when nothing new came for so many seconds.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub idle: u64,
    #[command(flatten)]
    pub hub: Hub,
}

/// Where the hub is.
#[derive(Debug, Args)]
pub struct Hub {
    /// The hub's owner connection string.
    #[arg(long, env = "DUNLIN_LOGIN", hide_env_values = true, value_name = "CONNSTR")]
    pub login: Option<String>,
    /// PEM file with the CA of the hub's certificate.
    #[arg(long, env = "DUNLIN_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The devices show this certificate (PEM) instead of a token: all the same one, by whose
    /// thumbprint they are registered.
    #[arg(long, value_name = "FILE", requires = "x509_key")]
    pub x509: Option<PathBuf>,
    /// PEM file with its key.
    #[arg(long, value_name = "FILE", requires = "x509")]
    pub x509_key: Option<PathBuf>,
    #[arg(long, default_value_t = 8883)]
    pub mqtt_port: u16,
    /// Connect to this address instead of what the host name resolves to.
    #[arg(long)]
    pub address: Option<IpAddr>,
}

/// A plain MQTT broker in the hub's place, for comparison: no identities, no SAS.
#[derive(Debug, Args)]
pub struct Broker {
    /// Drive this MQTT broker (over TLS) instead of a hub.
    #[arg(long, value_name = "HOST:PORT", requires = "broker_ca")]
    pub broker: Option<String>,
    /// PEM file with the CA of the broker's certificate.
    #[arg(long, value_name = "FILE")]
    pub broker_ca: Option<PathBuf>,
}

/// What is sent, and what acknowledges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Telemetry by devices, QoS 1: PUBACK.
    Publish,
    /// Reported properties by devices, QoS 0: the answer 204. Of a hub only.
    Report,
    /// Direct methods of the devices in turn, by one caller, one at a time: the answer. Of a hub
    /// over HTTPS, of a broker over MQTT.
    Call,
}

/// How fast messages are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Closed loop.
    Max,
    /// Messages per second over all devices, whatever the acknowledgements do.
    PerSecond(f64),
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(Rate::PerSecond(rate)),
        _ => Err("a number of messages per second, or `max`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_rate_is_a_number_or_max() {
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!(rate("0.5"), Ok(Rate::PerSecond(0.5)));
        for bad in ["0", "-1", "inf", "fast", ""] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}

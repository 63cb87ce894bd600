//! `dunlin device simulate`: telemetry from the command line. For load, there is dunlin-loadtest.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Args;
use dunlin_auth::Key;
use dunlin_model::{Identity, limits};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::failure::Failure;
use super::identity;
use super::login::{LoginArgs, SenderLoginArgs};
use super::output::{self, line};
use crate::client::{Client, ClientError};

mod device;
mod message;

use device::Device;
use message::Messages;

#[derive(Args)]
pub(super) struct SimulateArgs {
    /// Id of the device.
    #[arg(long, short = 'd', value_name = "ID")]
    device_id: String,
    #[command(flatten)]
    login: SenderLoginArgs,
    /// How many devices, named ID-1, ID-2 and so on; those that are not there are registered.
    /// Without it, the device ID.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    devices: Option<u32>,
    /// How many messages in all; 0: until interrupted.
    #[arg(long, visible_aliases = ["msg-count", "mc"], default_value_t = 100)]
    count: u64,
    /// How many messages a second in all; 0: as many as are acknowledged.
    #[arg(long, value_name = "MSGS_PER_S", default_value_t = 10.0)]
    rate: f64,
    /// Bytes of each body; JSON with a number and readings is made to fit.
    #[arg(long, value_name = "BYTES")]
    size: Option<usize>,
    /// The body of each message, instead of one that is made.
    #[arg(long, visible_alias = "da", value_name = "TEXT", conflicts_with = "size")]
    data: Option<String>,
    /// Application properties of each message, as 'k=v;k=v'.
    #[arg(long, short = 'p', visible_alias = "properties", value_name = "PROPS")]
    props: Option<String>,
    /// Content type of --data, for example application/json.
    #[arg(long, requires = "data", value_name = "TYPE")]
    content_type: Option<String>,
    /// Port of MQTT over TLS [default: what the hub on this machine has, else 8883]
    #[arg(long, value_name = "PORT")]
    mqtt_port: Option<u16>,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// What all devices have done.
#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    bytes: AtomicU64,
    connected: AtomicU64,
    reconnects: AtomicU64,
}

pub(super) async fn run(arguments: SimulateArgs) -> Result<(), Failure> {
    if !arguments.rate.is_finite() || arguments.rate < 0.0 {
        return Err(Failure::Usage("--rate is 0 or more messages a second".to_owned()));
    }
    let longest = limits::D2C_MESSAGE_BYTES;
    if arguments.size.is_some_and(|size| size > longest) {
        return Err(Failure::Usage(format!("--size is {longest} bytes at most")));
    }
    let messages = Arc::new(Messages::new(&arguments)?);
    let login = Arc::new(LoginArgs::from(arguments.login));
    let identities = identities(&login, &arguments.device_id, arguments.devices).await?;
    let counts = Arc::new(Counts::default());
    let devices = identities.len() as u64;
    let mut running = JoinSet::new();
    let started = Instant::now();
    for (place, (id, key)) in (0..).zip(identities) {
        let quota = match arguments.count {
            0 => u64::MAX,
            count => count / devices + u64::from(place < count % devices),
        };
        let device = Device {
            id,
            key,
            quota,
            // One after the other, not all at the same moment.
            pace: pace(arguments.rate, devices),
            first: started + pace(arguments.rate, devices).mul_f64(place as f64 / devices as f64),
            login: login.clone(),
            mqtt_port: arguments.mqtt_port,
            messages: messages.clone(),
            counts: counts.clone(),
        };
        if quota > 0 {
            running.spawn(device.run());
        }
    }
    let done = watch(&mut running, arguments.count, &counts, started).await;
    running.shutdown().await;
    summary(arguments.json, devices, &counts, started.elapsed())?;
    done
}

/// Time between two messages of one device.
fn pace(rate: f64, devices: u64) -> Duration {
    if rate == 0.0 {
        return Duration::ZERO;
    }
    Duration::try_from_secs_f64(devices as f64 / rate).unwrap_or(Duration::MAX / 4)
}

/// Shows progress until all devices are done, one fails or a person interrupts.
async fn watch(
    running: &mut JoinSet<Result<(), Failure>>,
    count: u64,
    counts: &Counts,
    started: Instant,
) -> Result<(), Failure> {
    let bar = std::io::stderr().is_terminal().then(|| bar(count));
    let every = Duration::from_millis(if bar.is_some() { 100 } else { 1_000 });
    let mut look = interval(every);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    look.tick().await;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let done = loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                None => break Ok(()),
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(failure))) => break Err(failure),
                Some(Err(error)) => break Err(Failure::Other(error.into())),
            },
            _ = look.tick() => {
                let text = progress(counts, started.elapsed());
                match &bar {
                    Some(bar) => {
                        bar.set_position(counts.acknowledged.load(Relaxed));
                        bar.set_message(text);
                    }
                    None => eprintln!("{:>4.0} s  {text}", started.elapsed().as_secs_f64()),
                }
            }
            _ = &mut interrupt => break Ok(()),
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    done
}

fn bar(count: u64) -> ProgressBar {
    let template = "{elapsed_precise} {wide_bar} {pos}/{len} {msg}";
    match (count, ProgressStyle::with_template(template)) {
        (1.., Ok(style)) => ProgressBar::new(count).with_style(style),
        _ => ProgressBar::new_spinner(),
    }
}

fn progress(counts: &Counts, elapsed: Duration) -> String {
    let acknowledged = counts.acknowledged.load(Relaxed);
    let rate = acknowledged as f64 / elapsed.as_secs_f64().max(0.001);
    let connected = counts.connected.load(Relaxed);
    let reconnects = match counts.reconnects.load(Relaxed) {
        0 => String::new(),
        number => format!(", {number} reconnects"),
    };
    format!("{acknowledged} acknowledged, {rate:.1}/s, {connected} connected{reconnects}")
}

fn summary(json: bool, devices: u64, counts: &Counts, elapsed: Duration) -> Result<(), Failure> {
    let (acknowledged, bytes) = (counts.acknowledged.load(Relaxed), counts.bytes.load(Relaxed));
    let reconnects = counts.reconnects.load(Relaxed);
    let seconds = elapsed.as_secs_f64().max(0.001);
    if json {
        return output::json(&json!({
            "devices": devices,
            "acknowledged": acknowledged,
            "bytes": bytes,
            "seconds": (seconds * 1_000.0).round() / 1_000.0,
            "messagesPerSecond": (acknowledged as f64 / seconds).round(),
            "reconnects": reconnects,
        }));
    }
    line(&format!(
        "{acknowledged} messages of {devices} devices acknowledged in {seconds:.1} s: {:.1} a \
         second, {:.1} kB/s of bodies, {reconnects} reconnects",
        acknowledged as f64 / seconds,
        bytes as f64 / seconds / 1_000.0,
    ))
}

async fn identities(
    login: &LoginArgs,
    name: &str,
    devices: Option<u32>,
) -> Result<Vec<(Identity, Key)>, Failure> {
    let client = login.client()?;
    let id = |name: &str| Identity::device(name).map_err(|error| Failure::Usage(error.message));
    let Some(devices) = devices else {
        let id = id(name)?;
        let read = client.device_get(id.as_str()).await?;
        let key = identity::primary_key(&read, &id)?;
        return Ok(vec![(id, key)]);
    };
    let mut identities = Vec::new();
    for number in 1..=devices {
        let id = id(&format!("{name}-{number}"))?;
        let read = get_or_create(&client, &id).await?;
        let key = identity::primary_key(&read, &id)?;
        identities.push((id, key));
    }
    Ok(identities)
}

async fn get_or_create(client: &Client, id: &Identity) -> Result<serde_json::Value, ClientError> {
    match client.device_get(id.as_str()).await {
        Err(ClientError::Refused { code, .. }) if code == "DeviceNotFound" => {
            let body = json!({ "deviceId": id.as_str() });
            client.device_put(id.as_str(), &body, None).await
        }
        read => read,
    }
}

//! One simulated device: connects, publishes at its pace, connects again when it is dropped.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use dunlin_auth::Key;
use dunlin_model::{Identity, limits};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing,
    Packet, QoS, TlsConfiguration, Transport,
};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::Counts;
use super::message::Messages;
use crate::cli::failure::Failure;
use crate::cli::identity;
use crate::cli::login::LoginArgs;

/// Messages that may be on their way at once.
const WINDOW: u16 = 100;
const TOKEN_SECONDS: u64 = 3_600;
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// About a minute in all, without a message acknowledged in between.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(5))
    .with_max_times(18);

pub(super) struct Device {
    pub id: Identity,
    pub key: Key,
    /// How many messages it is to have acknowledged.
    pub quota: u64,
    /// Time between two messages; none: as the hub acknowledges.
    pub pace: Duration,
    pub first: Instant,
    pub login: Arc<LoginArgs>,
    pub mqtt_port: Option<u16>,
    pub messages: Arc<Messages>,
    pub counts: Arc<Counts>,
}

/// How a connection came to its end.
enum End {
    Done,
    Lost(ConnectionError),
}

impl Device {
    pub(super) async fn run(self) -> Result<(), Failure> {
        // Acknowledgements come in order: what is not acknowledged when a connection ends is sent
        // again, under the same number and message id.
        let mut acknowledged = 0;
        let mut was_connected = false;
        let mut retry = RETRY.build();
        loop {
            let before = acknowledged;
            let connected = &mut was_connected;
            let error = match self.connection(&mut acknowledged, connected).await {
                Ok(End::Done) => return Ok(()),
                Ok(End::Lost(error)) => error,
                // The hub's file has gone: so it is on its way down, or up.
                Err(Failure::NoHub(_)) if was_connected => {
                    wait(&mut retry, "there is no hub").await?;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if acknowledged > before {
                retry = RETRY.build();
            }
            self.judge(&error, was_connected)?;
            wait(&mut retry, &error.to_string()).await?;
            self.counts.reconnects.fetch_add(1, Relaxed);
        }
    }

    /// Publishes until all is acknowledged or the connection ends.
    async fn connection(&self, acknowledged: &mut u64, was: &mut bool) -> Result<End, Failure> {
        let (client, mut events) = AsyncClient::new(self.options()?, usize::from(WINDOW));
        let publisher = self.publish(&client, *acknowledged);
        let mut connected = false;
        let listener = async {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        (connected, *was) = (true, true);
                        self.counts.connected.fetch_add(1, Relaxed);
                    }
                    Ok(Event::Incoming(Packet::PubAck(_))) => {
                        let length = self.messages.body(self.id.as_str(), *acknowledged).len();
                        *acknowledged += 1;
                        self.counts.acknowledged.fetch_add(1, Relaxed);
                        self.counts.bytes.fetch_add(length as u64, Relaxed);
                        if *acknowledged == self.quota {
                            return End::Done;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => return End::Lost(error),
                }
            }
        };
        let end = tokio::select! {
            end = listener => end,
            never = publisher => match never {},
        };
        if matches!(end, End::Done) {
            disconnect(&client, &mut events).await;
        }
        if connected {
            self.counts.connected.fetch_sub(1, Relaxed);
        }
        Ok(end)
    }

    /// Does not end by itself: the listener hears when all is done.
    async fn publish(&self, client: &AsyncClient, from: u64) -> Infallible {
        let device = self.id.as_str();
        let mut ticks = (!self.pace.is_zero()).then(|| {
            let first = self.first.max(Instant::now());
            let mut ticks = interval_at(first, self.pace);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            ticks
        });
        for number in from..self.quota {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            let topic = self.messages.topic(device, number);
            let body = self.messages.body(device, number);
            // It fails only when the listener is gone, and then this is, too.
            if client.publish(topic, QoS::AtLeastOnce, false, body).await.is_err() {
                break;
            }
        }
        std::future::pending().await
    }

    fn options(&self) -> Result<MqttOptions, Failure> {
        // Anew each time: a hub that starts again may have taken another port.
        let target = self.login.mqtt(self.mqtt_port)?;
        let device = self.id.as_str();
        let user = format!("{}/{device}/?api-version=2021-04-12", target.hostname);
        let token = identity::token(&target.hostname, &self.id, &self.key, TOKEN_SECONDS);
        let mut options = MqttOptions::new(device, target.address, target.port);
        options.set_credentials(user, token).set_keep_alive(KEEP_ALIVE).set_inflight(WINDOW);
        // With the topic, which holds the properties.
        let most = limits::D2C_MESSAGE_BYTES + 70_000;
        options.set_max_packet_size(most, most);
        options.set_transport(Transport::Tls(match target.ca {
            Some(ca) => TlsConfiguration::Simple { ca, alpn: None, client_auth: None },
            None => TlsConfiguration::default(),
        }));
        Ok(options)
    }

    /// Whether it makes sense to come back.
    fn judge(&self, error: &ConnectionError, was_connected: bool) -> Result<(), Failure> {
        let id = &self.id;
        match error {
            ConnectionError::ConnectionRefused(ConnectReturnCode::ServiceUnavailable) => Ok(()),
            ConnectionError::ConnectionRefused(code) => Err(Failure::Refused(format!(
                "the hub refuses {id} ({code:?})\n`dunlin device show -d {id}` tells whether it \
                 is enabled and how it authenticates"
            ))),
            error if was_connected => {
                tracing::debug!(error = error as &dyn std::error::Error, "lost the connection");
                Ok(())
            }
            error => {
                let text = error.to_string();
                let next = if text.contains("ertificate") {
                    "set DUNLIN_CA to the hub's CA file (`dunlin up` prints where it is)"
                } else {
                    "start a hub with `dunlin up`, or name its MQTT port with --mqtt-port"
                };
                Err(Failure::Lost(format!("cannot reach the hub over MQTT: {text}\n{next}")))
            }
        }
    }
}

async fn wait(retry: &mut ExponentialBackoff, reason: &str) -> Result<(), Failure> {
    match retry.next() {
        Some(delay) => {
            sleep(delay).await;
            Ok(())
        }
        None => Err(Failure::Lost(format!(
            "the hub does not come back: {reason}\nstart it again with `dunlin up`"
        ))),
    }
}

/// As a device that means to go; who is not let go in time goes all the same.
async fn disconnect(client: &AsyncClient, events: &mut EventLoop) {
    let said = async {
        if client.disconnect().await.is_ok() {
            while !matches!(events.poll().await, Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_))
            {
            }
        }
    };
    let _ = timeout(Duration::from_secs(2), said).await;
}

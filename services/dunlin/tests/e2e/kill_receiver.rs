//! A device of the kill test that receives C2D messages, over MQTT or over HTTPS, and the back end
//! that sends them to it and purges them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin::client::{ClientError, CommandMessage};
use dunlin_auth::ConnectionString;
use dunlin_model::command::{Disposition, Outcome};
use fastrand::Rng;
use reqwest::header::{HeaderMap, HeaderValue};
use tokio::time::sleep;

use crate::kill::{Place, id, token};
use crate::kill_ledger::{DEPTH, Ledger};
use crate::kill_traffic::Flow;
use crate::process::Hub;
use crate::raw::{
    CONNACK_PRESENT, DISCONNECT, PINGREQ, PINGRESP, Published, connack, puback, suback, subscribe,
    within,
};

/// Messages that a device acknowledges late, at a time.
const LATE: usize = 8;

/// The answer, or the name of the hub's error; nothing if the hub was killed first.
pub fn answered<T>(result: Result<T, ClientError>) -> Option<Result<T, String>> {
    match result {
        Ok(answer) => Some(Ok(answer)),
        Err(ClientError::Refused { code, .. }) => Some(Err(code)),
        Err(ClientError::Unreachable { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// A message's body, which is its number.
pub fn number(body: &[u8]) -> u64 {
    std::str::from_utf8(body).ok().and_then(|text| text.parse().ok()).expect("a number")
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Mqtt,
    /// Over MQTT. It acknowledges little, and begins with a full queue.
    Slow,
    Https,
}

/// A device, the back end that sends to it, and what they know.
#[derive(Clone)]
pub struct Device {
    login: ConnectionString,
    kind: Kind,
    ledger: Arc<Mutex<Ledger>>,
}

impl Device {
    pub async fn create(hub: &Hub, name: &str, kind: Kind) -> Self {
        let login = hub.create_device(name).await;
        if kind != Kind::Https {
            let mut raw = Place::of(hub).enter(&login, connack(0)).await.expect("let in");
            let filter = format!("devices/{name}/messages/devicebound/#");
            raw.send(&subscribe(1, &[(&filter, 1)])).await;
            raw.expect(&suback(1, &[1])).await;
        }
        Self { login, kind, ledger: Arc::default() }
    }

    pub fn id(&self) -> &str {
        id(&self.login)
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the hub is killed.
    pub async fn run(self, place: Place, flow: Arc<Flow>, mut random: Rng) {
        let mut back_end = random.fork();
        let send = async {
            loop {
                let goes_on = match back_end.u8(..32) {
                    0 if self.kind != Kind::Slow => self.purge(&place).await,
                    _ => self.send(&place, &flow).await.map(drop),
                };
                if goes_on.is_none() {
                    return;
                }
            }
        };
        let receive = async {
            match self.kind {
                Kind::Https => while self.poll(&place, &flow, &mut random).await.is_some() {},
                _ => self.listen(&place, &flow, &mut random).await,
            }
        };
        tokio::join!(send, receive);
    }

    /// Whether there was room.
    async fn send(&self, place: &Place, flow: &Flow) -> Option<bool> {
        let (room, number) = {
            let mut ledger = self.ledger();
            (ledger.has_room(), ledger.send())
        };
        let text = number.to_string();
        let mut headers = HeaderMap::new();
        headers.insert("iothub-messageid", HeaderValue::from_str(&text).expect("a number"));
        headers.insert("iothub-ack", HeaderValue::from_static("full"));
        let message = CommandMessage { headers, body: text.into_bytes() };
        let answer = answered(place.client.c2d_send(self.id(), message).await)?;
        match &answer {
            Ok(_) => {
                self.ledger().sent(number);
                flow.sent.notify_one();
            }
            Err(code) => {
                assert_eq!(code, "DeviceMaximumQueueDepthExceeded");
                self.ledger().refused(number, room);
            }
        }
        Some(answer.is_ok())
    }

    async fn purge(&self, place: &Place) -> Option<()> {
        let most = self.ledger().purge();
        let answer = answered(place.client.c2d_purge(self.id()).await)?.expect("purged");
        let total = answer["totalMessagesPurged"].as_u64().expect("a number");
        self.ledger().purged(usize::try_from(total).expect("few"), most);
        Some(())
    }

    /// Over MQTT. It acknowledges most messages at once, some late, some not at all.
    async fn listen(&self, place: &Place, flow: &Flow, random: &mut Rng) {
        let Ok(mut raw) = place.enter(&self.login, CONNACK_PRESENT).await else { return };
        let mut late = Vec::new();
        let never = if self.kind == Kind::Slow { 10 } else { 1 };
        while let Ok(packet) = raw.packet().await {
            let message = Published::of(&packet);
            let number = number(&message.body);
            self.ledger().handed(number);
            flow.received.notify_one();
            let mut done = Vec::new();
            match random.u8(..16) {
                draw if draw < never => {}
                12.. => late.push((number, message.packet_id)),
                _ => done.push((number, message.packet_id)),
            }
            if late.len() > LATE || !late.is_empty() && random.bool() {
                done.push(late.swap_remove(random.usize(..late.len())));
            }
            for (number, packet_id) in done {
                self.ledger().ask(number, Outcome::Success);
                if raw.try_send(&puback(packet_id)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Over HTTPS: one message.
    async fn poll(&self, place: &Place, flow: &Flow, random: &mut Rng) -> Option<()> {
        let (client, token) = (&place.client, token(&self.login));
        let Some(answer) = answered(client.c2d_receive(self.id(), &token).await) else {
            self.ledger().cut();
            return None;
        };
        let Some(message) = answer.expect("received") else { return Some(()) };
        let number = number(&message.body);
        self.ledger().handed(number);
        let (disposition, outcome) = match random.u8(..16) {
            0..8 => (Disposition::Complete, Some(Outcome::Success)),
            8..11 => (Disposition::Reject, Some(Outcome::Rejected)),
            11..14 => (Disposition::Abandon, None),
            // It forgets it.
            _ => return Some(()),
        };
        if let Some(outcome) = outcome {
            self.ledger().ask(number, outcome);
        }
        let settled = client.c2d_settle(self.id(), &token, &message.lock_token, disposition).await;
        match (answered(settled)?, outcome) {
            (Ok(()), Some(_)) => {
                self.ledger().settled(number);
                flow.settled.notify_one();
            }
            (Ok(()), None) => {}
            (Err(code), _) => {
                assert_eq!(code, "DeviceMessageLockLost");
                self.ledger().lock_lost(number);
            }
        }
        Some(())
    }

    async fn count(&self, place: &Place) -> usize {
        let twin = place.client.twin_get(self.id()).await.expect("a twin");
        let count = twin["cloudToDeviceMessageCount"].as_u64().expect("a number");
        usize::try_from(count).expect("few")
    }

    /// After the restart, while nobody else does anything.
    pub async fn judge(&self, place: &Place) {
        self.ledger().restarted();
        if self.kind == Kind::Https {
            // What is still locked cannot be had now.
            let count = self.count(place).await;
            return self.ledger().counted(count);
        }
        let found = within("what is queued", self.receive_all(place, false)).await;
        self.ledger().counted(found.len());
        self.ledger().found(&found);
        if self.kind == Kind::Slow {
            // The ledger sees it if the last one is taken.
            let mut room = true;
            for _ in 0..=DEPTH {
                room = room && self.send(place, &Flow::default()).await.expect("the hub is up");
            }
        }
    }

    /// Over MQTT, until it has all that is queued; without a word, its subscription being stored.
    async fn receive_all(&self, place: &Place, acknowledge: bool) -> Vec<u64> {
        let mut raw = place.enter(&self.login, CONNACK_PRESENT).await.expect("let in");
        let mut found = Vec::new();
        // The hub does not tell when it has nothing more: it is asked again with each answer.
        while self.count(place).await != if acknowledge { 0 } else { found.len() } {
            raw.send(&PINGREQ).await;
            loop {
                let packet = raw.packet().await.expect("a packet");
                if packet == PINGRESP {
                    break;
                }
                let message = Published::of(&packet);
                let number = number(&message.body);
                found.push(number);
                if acknowledge {
                    self.ledger().handed(number);
                    self.ledger().ask(number, Outcome::Success);
                    raw.send(&puback(message.packet_id)).await;
                }
            }
        }
        raw.send(&DISCONNECT).await;
        raw.expect_close().await;
        found
    }

    /// Takes and completes everything that is queued.
    pub async fn finish(&self, place: &Place) {
        if self.kind != Kind::Https {
            self.receive_all(place, true).await;
            return;
        }
        let token = token(&self.login);
        while self.count(place).await > 0 {
            let received = place.client.c2d_receive(self.id(), &token).await.expect("an answer");
            let Some(message) = received else {
                // sleep: between two looks; what is locked comes again in some seconds.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let number = number(&message.body);
            self.ledger().handed(number);
            self.ledger().ask(number, Outcome::Success);
            let (lock, done) = (&message.lock_token, Disposition::Complete);
            place.client.c2d_settle(self.id(), &token, lock, done).await.expect("completed");
            self.ledger().settled(number);
        }
    }
}

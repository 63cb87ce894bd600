//! A device of the C2D model check: what it does, and what it has seen.

use std::collections::{HashMap, HashSet};

use dunlin::client::Client as Rest;
use dunlin::test_hub::TestHub;
use dunlin_model::Identity;
use dunlin_model::command::Disposition;
use dunlin_storage::command_queue::conformance::Watch;
use dunlin_storage::command_queue::conformance::model::{Model, Settled};
use dunlin_storage::presence::Epoch;
use fastrand::Rng;

use crate::c2d_model::{Time, rules};
use crate::mqtt_commands::listen;
use crate::mqtt_kit::{Device, Door};
use crate::raw::{DISCONNECT, PINGREQ, PINGRESP, Published, Raw, puback, within};

/// A message as it came over MQTT, or a PUBACK for it, and the epoch of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    epoch: Epoch,
    id: String,
    dup: bool,
}

pub struct Client {
    device: Device,
    random: Rng,
    /// How much of it is by HTTPS, in a hundred.
    by_request: u32,
    raw: Option<Raw>,
    epoch: Epoch,
    /// Of this connection, by packet id.
    unacknowledged: Vec<(u16, Packet)>,
    /// PUBACKs of this connection of which the hub may not know yet.
    sent: Vec<Packet>,
    /// In their order, over all connections.
    came: Vec<Packet>,
    acknowledged: Vec<Packet>,
    /// Those that the hub has certainly read.
    read: Vec<Packet>,
    /// By HTTPS: message, lock, delivery count.
    received: Vec<(String, String, u32)>,
    /// And whether it was still held.
    settled: Vec<(String, Disposition, bool)>,
}

impl Client {
    pub async fn create(hub: &TestHub, id: &str, by_request: u32, random: Rng) -> Self {
        let device = Device::create(hub, id).await;
        // From now on its subscription is stored.
        let mut raw = Door::of(hub).enter(&device.connect()).await;
        listen(&mut raw, &device, 1).await;
        raw.send(&DISCONNECT).await;
        raw.expect_close().await;
        Self {
            device,
            random,
            by_request,
            raw: None,
            epoch: 0,
            unacknowledged: Vec::new(),
            sent: Vec::new(),
            came: Vec::new(),
            acknowledged: Vec::new(),
            read: Vec::new(),
            received: Vec::new(),
            settled: Vec::new(),
        }
    }

    /// Does so many things at random.
    pub async fn run(&mut self, hub: &TestHub, steps: usize) {
        let rest = hub.client();
        self.lose().await;
        for _ in 0..steps {
            if self.random.u32(..100) < self.by_request {
                match self.random.u32(..5) {
                    0..2 => self.receive(&rest).await,
                    _ => self.settle(&rest).await,
                }
                continue;
            }
            match self.random.u32(..100) {
                _ if self.raw.is_none() => self.connect(hub).await,
                0..8 => self.connect(hub).await,
                8..14 => self.leave().await,
                14..20 => self.raw.take().expect("connected").abandon(),
                20..50 => self.listen().await,
                _ => self.acknowledge().await,
            }
        }
    }

    /// A new connection, by which one that is there is taken over.
    async fn connect(&mut self, hub: &TestHub) {
        let raw = Door::of(hub).resume(&self.device.connect()).await;
        self.lose().await;
        let id = Identity::parse(&self.device.id).expect("an id");
        let holder = hub.stores().presence.holder(&id).await.expect("presence");
        (self.raw, self.epoch) = (Some(raw), holder.expect("it is connected").epoch);
    }

    /// The connection ends, if there is one. What it still said has come.
    async fn lose(&mut self) {
        if let Some(mut raw) = self.raw.take() {
            while let Ok(packet) = raw.packet().await {
                self.take(&packet);
            }
        }
        self.unacknowledged.clear();
        self.sent.clear();
    }

    async fn leave(&mut self) {
        if let Some(raw) = &mut self.raw {
            raw.send(&DISCONNECT).await;
        }
        self.lose().await;
    }

    /// Takes what has been sent up to now. Of what was said before the hub knows then.
    async fn listen(&mut self) {
        let Some(mut raw) = self.raw.take() else { return };
        raw.send(&PINGREQ).await;
        loop {
            let packet = raw.packet().await.expect("a packet");
            if packet == PINGRESP {
                break;
            }
            self.take(&packet);
        }
        self.raw = Some(raw);
        self.read.append(&mut self.sent);
    }

    fn take(&mut self, packet: &[u8]) {
        if packet == PINGRESP {
            return;
        }
        let message = Published::of(packet);
        let (id, dup) = (message.text().to_owned(), message.dup);
        let packet = Packet { epoch: self.epoch, id, dup };
        // It may be there already, and have come again.
        self.unacknowledged.retain(|(id, _)| *id != message.packet_id);
        self.unacknowledged.push((message.packet_id, packet.clone()));
        self.came.push(packet);
    }

    /// Some of what is not acknowledged, in any order.
    async fn acknowledge(&mut self) {
        self.random.shuffle(&mut self.unacknowledged);
        let count = self.random.usize(..=self.unacknowledged.len());
        self.acknowledge_some(count).await;
    }

    async fn acknowledge_some(&mut self, count: usize) {
        let Some(raw) = &mut self.raw else { return };
        for (packet_id, packet) in self.unacknowledged.drain(..count) {
            self.acknowledged.push(packet.clone());
            self.sent.push(packet);
            raw.send(&puback(packet_id)).await;
        }
    }

    async fn receive(&mut self, rest: &Rest) {
        let received = rest.c2d_receive(&self.device.id, &self.device.token()).await;
        let Some(received) = received.expect("an answer") else { return };
        let count = received.headers["iothub-deliverycount"].to_str().expect("text");
        let id = String::from_utf8(received.body).expect("UTF-8");
        self.received.push((id, received.lock_token, count.parse().expect("a number")));
    }

    /// Of what was ever received, mostly of late.
    async fn settle(&mut self, rest: &Rest) {
        let recent = if self.random.u32(..5) == 0 { usize::MAX } else { 2 };
        let recent = self.received.len().min(recent);
        if recent == 0 {
            return;
        }
        let at = self.received.len() - 1 - self.random.usize(..recent);
        let lock = self.received[at].1.clone();
        let ways = [Disposition::Complete, Disposition::Abandon, Disposition::Reject];
        let way = ways[self.random.usize(..3)];
        let settled = rest.c2d_settle(&self.device.id, &self.device.token(), &lock, way).await;
        let held = match settled {
            Ok(()) => true,
            Err(error) if error.to_string().starts_with("DeviceMessageLockLost") => false,
            Err(error) => panic!("{error}"),
        };
        self.settled.push((lock, way, held));
    }

    /// Who is connected is handed everything that waits, by itself. Some of it is acknowledged then,
    /// without looking whether the hub has taken note.
    pub async fn come_to_rest(&mut self, watch: &Watch, time: &Time) {
        let id = self.device.id.clone();
        let all = async {
            while self.raw.is_some() {
                self.listen().await;
                if !watch.model().await.has_free(&id, time.now(), &rules()) {
                    break;
                }
            }
        };
        within("what waits for a device", all).await;
        self.acknowledge().await;
        if self.random.bool() {
            self.listen().await;
        }
    }

    /// Takes and acknowledges all there is, until nothing is queued.
    pub async fn finish(&mut self, hub: &TestHub) {
        let rest = hub.client();
        self.connect(hub).await;
        let all = async {
            loop {
                self.listen().await;
                self.acknowledge_some(self.unacknowledged.len()).await;
                let device = rest.device_get(&self.device.id).await.expect("read");
                if device["cloudToDeviceMessageCount"] == 0 {
                    break;
                }
            }
        };
        within("the end of a queue", all).await;
        self.leave().await;
    }

    /// It has seen what the queue did with its messages.
    pub fn check(&self, model: &Model) {
        let handed_out = model.handed_out.iter().filter(|one| one.device == self.device.id);
        let by_epoch = |epoch: Epoch| handed_out.clone().filter(move |one| one.epoch == epoch);
        // By MQTT, a connection may have ended before all of it came.
        for came in self.came.chunk_by(|one, next| one.epoch == next.epoch) {
            let want = by_epoch(came[0].epoch).map(|one| Packet {
                epoch: one.epoch,
                id: one.id.clone(),
                dup: one.count > 0,
            });
            let want: Vec<_> = want.take(came.len()).collect();
            assert_eq!(came, want, "{}", self.device.id);
        }
        let want = by_epoch(0).map(|one| (one.id.clone(), one.token.to_string(), one.count));
        assert_eq!(self.received, want.collect::<Vec<_>>(), "{}", self.device.id);

        let locks: HashMap<_, _> = handed_out.map(|one| (one.token, one)).collect();
        let (mut by_request, mut completed) = (Vec::new(), HashSet::new());
        for Settled { token, epoch, disposition, held } in &model.settled {
            let Some(lock) = locks.get(token) else { continue };
            match epoch {
                0 => by_request.push((token.to_string(), *disposition, *held)),
                _ => {
                    assert_eq!(*disposition, Disposition::Complete, "{lock:?}");
                    // What was acknowledged is settled before the next connection has its turn.
                    assert!(*held || !model.taken_back.contains(token), "too late: {lock:?}");
                    completed.insert((*epoch, lock.id.clone()));
                }
            }
        }
        assert_eq!(self.settled, by_request, "{}", self.device.id);
        let of = |packets: &[Packet]| -> HashSet<_> {
            packets.iter().map(|one| (one.epoch, one.id.clone())).collect()
        };
        let (acknowledged, read) = (of(&self.acknowledged), of(&self.read));
        let early: Vec<_> = completed.difference(&acknowledged).collect();
        assert!(early.is_empty(), "{}: completed without PUBACK: {early:?}", self.device.id);
        let lost: Vec<_> = read.difference(&completed).collect();
        assert!(lost.is_empty(), "{}: acknowledged in vain: {lost:?}", self.device.id);
    }
}

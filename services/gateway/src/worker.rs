//! HOT PATH: a connection thread's own state: its connections, its clock, and what is done with
//! what the queue brings for them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dunlin_model::ErrorCode;
use dunlin_runtime::clock;
use dunlin_storage::event_log::{Completions, Token};
use slab::Slab;
use tokio::sync::oneshot;

use crate::gateway::Gateway;
use crate::metrics::Protocol;
use crate::mqtt::Connection;
use crate::mqtt::bag::Bag;
use crate::queue::{Command, Inbox, Queue};
use crate::reports::ACTIVITY_SECONDS;

/// How often connections are looked over for silence and expired tokens.
const SWEEP: Duration = Duration::from_secs(1);

/// A connection's place at its worker.
enum Slot {
    /// Its session is being opened; `doomed` if it was told to go before that was done.
    Opening {
        serial: u32,
        doomed: bool,
    },
    Open(Rc<Connection>),
}

/// One connection thread.
pub struct Worker {
    pub gateway: Arc<Gateway>,
    pub queue: Arc<Queue>,
    /// The queue, as the event log wants it.
    pub sink: Arc<dyn Completions>,
    /// Read again for every message.
    pub bag: RefCell<Bag>,
    slots: RefCell<Slab<Slot>>,
    started: Instant,
    now: Cell<u32>,
    /// When the registry was last told who is connected, and how often the gateway had been taken
    /// for dead by then.
    reported: Cell<u32>,
    restored: Cell<u32>,
    /// Connections whose last message the event log had no room for.
    stalled: RefCell<Vec<u64>>,
    /// The message whose time is taken, one after the other: each batch, not each message, costs a
    /// look at the clock.
    timed: Cell<Option<(Token, Instant)>>,
    draining: Cell<bool>,
    drained: RefCell<Option<oneshot::Sender<()>>>,
}

impl Worker {
    /// Starts the worker's own task on this thread; it ends only by a panic.
    pub fn start(gateway: Arc<Gateway>, queue: Arc<Queue>) -> (Rc<Self>, ntex::rt::JoinHandle<()>) {
        let worker = Rc::new(Self {
            gateway,
            sink: queue.clone(),
            queue,
            bag: RefCell::default(),
            slots: RefCell::default(),
            started: Instant::now(),
            now: Cell::new(0),
            reported: Cell::new(0),
            restored: Cell::new(0),
            stalled: RefCell::default(),
            timed: Cell::new(None),
            draining: Cell::new(false),
            drained: RefCell::default(),
        });
        let running = ntex::rt::spawn(worker.clone().run());
        (worker, running)
    }

    async fn run(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut inbox = Inbox::default();
        loop {
            tokio::select! {
                () = self.queue.filled() => self.deliver(&mut inbox),
                _ = ticks.tick() => self.sweep(),
            }
        }
    }

    /// Takes everything that waits, with one swap, so that both sides keep their buffers.
    fn deliver(self: &Rc<Self>, inbox: &mut Inbox) {
        self.queue.swap(inbox);
        let (timed, mut failed) = (self.timed.get(), 0);
        for completion in inbox.completions.drain(..) {
            failed += u64::from(!completion.durable);
            if let Some((token, since)) = timed
                && token == completion.token
            {
                self.timed.set(None);
                self.gateway.metrics.durable(Protocol::Mqtt, since.elapsed());
            }
            if let Some(connection) = self.connection(completion.token.connection) {
                connection.complete(completion.token.sequence, completion.durable);
            }
        }
        if failed > 0 {
            self.gateway.metrics.failed(failed);
        }
        for command in inbox.commands.drain(..) {
            match command {
                Command::Disconnect { key, reason, done } => {
                    // What its device has acknowledged is not to go to the next connection. Who waits
                    // is told by `done` being dropped.
                    if let Some(connection) = self.disconnect(key, reason) {
                        connection.when_leases_are_gone(done);
                    }
                }
                Command::Tell { key, message } => match self.connection(key) {
                    Some(connection) => connection.tell(message, self),
                    None => message.undeliverable(),
                },
                Command::Drain { done } => {
                    self.drained.replace(Some(done));
                    self.draining.set(true);
                    let mut open = Vec::new();
                    for (_, slot) in self.slots.borrow_mut().iter_mut() {
                        match slot {
                            Slot::Open(connection) => open.push(connection.key()),
                            // Who is just coming in is told to come back (CONNACK 3).
                            Slot::Opening { doomed, .. } => *doomed = true,
                        }
                    }
                    self.report_if_drained();
                    let worker = self.clone();
                    ntex::rt::spawn(async move { worker.send_away(open).await });
                }
            }
        }
    }

    /// Has these connections drain at the gateway's pace; until its turn each is served as ever.
    async fn send_away(&self, keys: Vec<u64>) {
        for key in keys {
            // Who has gone by himself takes nobody's turn.
            if self.connection(key).is_some() {
                self.gateway.pace.turn().await;
            }
            if let Some(connection) = self.connection(key) {
                connection.drain();
            }
        }
    }

    /// Tells a connection to go. What it has leased of C2D messages is given back with it.
    fn disconnect(&self, key: u64, reason: ErrorCode) -> Option<Rc<Connection>> {
        if let Some(Slot::Opening { serial, doomed }) = self.slots.borrow_mut().get_mut(index(key))
            && *serial == serial_of(key)
        {
            *doomed = true;
        }
        let connection = self.connection(key)?;
        connection.end(reason);
        Some(connection)
    }

    fn sweep(self: &Rc<Self>) {
        let now = u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX);
        self.now.set(now);
        let wall = clock::unix_seconds();
        for (_, slot) in &*self.slots.borrow() {
            if let Slot::Open(connection) = slot {
                connection.check(now, wall, self);
            }
        }
        let restored = self.gateway.restored.load(Ordering::Relaxed);
        let again = self.restored.replace(restored) != restored;
        if again || now - self.reported.get() >= ACTIVITY_SECONDS {
            self.report_connections(wall);
        }
    }

    /// Has the registry told of everybody who is connected, and when each was last heard of.
    fn report_connections(&self, wall: u64) {
        self.reported.set(self.now());
        for (_, slot) in &*self.slots.borrow() {
            if let Slot::Open(connection) = slot {
                connection.session().report_activity(self.unix(connection.heard(), wall));
            }
        }
        self.gateway.reports.flush();
    }

    /// A time of this worker as Unix seconds, `wall` being now.
    fn unix(&self, at: u32, wall: u64) -> u64 {
        wall.saturating_sub(u64::from(self.now().saturating_sub(at)))
    }

    /// Seconds since the worker started, at most a second old.
    pub fn now(&self) -> u32 {
        self.now.get()
    }

    /// A key for a connection whose session is about to be opened. No other worker gives it too:
    /// connections of one identity on two of them are told apart by it.
    pub fn reserve(self: &Rc<Self>) -> Reservation {
        let serial = self.gateway.serials.fetch_add(1, Ordering::Relaxed);
        let at =
            self.slots.borrow_mut().insert(Slot::Opening { serial, doomed: self.draining.get() });
        Reservation { worker: self.clone(), key: u64::from(serial) << 32 | at as u64 }
    }

    /// Whether who comes now is to come back later.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    fn connection(&self, key: u64) -> Option<Rc<Connection>> {
        match self.slots.borrow().get(index(key)) {
            Some(Slot::Open(connection)) if connection.key() == key => Some(connection.clone()),
            _ => None,
        }
    }

    /// A message is on its way into the event log.
    pub fn time(&self, token: Token) {
        if self.timed.get().is_none() {
            self.timed.set(Some((token, Instant::now())));
        }
    }

    /// Has a connection try its last message again when the event log has room.
    pub fn stall(self: &Rc<Self>, key: u64) {
        let mut stalled = self.stalled.borrow_mut();
        stalled.push(key);
        if stalled.len() == 1 {
            let worker = self.clone();
            ntex::rt::spawn(async move { worker.retry_stalled().await });
        }
    }

    async fn retry_stalled(self: Rc<Self>) {
        while !self.stalled.borrow().is_empty() {
            self.gateway.events.writable().await;
            // Whoever finds no room again stays on the list, in its place.
            self.stalled.borrow_mut().retain(|key| {
                self.connection(*key).is_some_and(|connection| !connection.retry(&self))
            });
        }
    }

    fn remove(&self, key: u64) {
        let slot = self.slots.borrow_mut().remove(index(key));
        if let Slot::Open(connection) = &slot {
            connection.session().heard(self.unix(connection.heard(), clock::unix_seconds()));
        }
        self.report_if_drained();
    }

    fn report_if_drained(&self) {
        if self.slots.borrow().is_empty()
            && let Some(done) = self.drained.borrow_mut().take()
        {
            let _ = done.send(());
        }
    }
}

/// A place at the worker; dropped, it is free again.
pub struct Reservation {
    worker: Rc<Worker>,
    key: u64,
}

impl Reservation {
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Puts the opened connection in place. `false`: it was told to go in the meantime.
    pub fn fill(&self, connection: &Rc<Connection>) -> bool {
        let mut slots = self.worker.slots.borrow_mut();
        match slots.get_mut(index(self.key)) {
            Some(slot @ Slot::Opening { doomed: false, .. }) => {
                *slot = Slot::Open(connection.clone());
                true
            }
            _ => false,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.worker.remove(self.key);
    }
}

fn index(key: u64) -> usize {
    (key & 0xffff_ffff) as usize
}

fn serial_of(key: u64) -> u32 {
    (key >> 32) as u32
}

//! One device, from its first dialling to its last DISCONNECT.

mod https;
mod misbehave;
mod mqtt;
mod outbox;
mod pace;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::awaited::Awaited;
use crate::backend::Waiting;
use crate::fleet::{self, Phase};
use crate::history::{self, Kind, Line, Pen};
use crate::http;
use crate::link::{Link, Scratch};
use crate::outcome::{Event, Op, Tally};
use crate::plan::{Plan, Side};
use crate::scenario::{Protocol, Tls};
use crate::target::Throttled;
use crate::tls::Ticket;
use outbox::Outbox;
use pace::Pace;

/// How long a device may take to get from dialling to ready.
const CONNECT: Duration = Duration::from_secs(60);

/// What devices and back ends of one client thread share.
pub struct Shared {
    pub plan: Arc<Plan>,
    pub phase: watch::Receiver<Phase>,
    pub tally: Arc<Tally>,
    pub pen: RefCell<Pen>,
    pub scratch: Scratch,
    pub waiting: Waiting,
    pub awaited: Awaited,
    /// Sockets of devices that dropped their TLS state.
    pub silent: RefCell<Vec<std::net::TcpStream>>,
}

pub struct Device {
    shared: Rc<Shared>,
    /// Its group, by place in the plan, and its number there.
    at: (usize, usize),
    id: String,
    /// Which of its connections this is.
    epoch: u32,
    /// Its TLS session, where that is to be resumed.
    ticket: Option<Arc<Ticket>>,
}

/// What connects and serves over a protocol.
enum Connection {
    Mqtt(Box<Link>),
    Https(Box<http::Client>),
}

/// What a device sends, from one connection to the next.
struct Work {
    telemetry: Outbox,
    reports: Outbox,
    phase: watch::Receiver<Phase>,
}

/// How a connection ended, if not before its time.
enum End {
    /// The run is over.
    Stopped,
    /// To connect again.
    Again,
    /// It stays, and nobody looks after it.
    Silent,
}

/// Runs the device to its end.
pub async fn run(
    shared: Rc<Shared>,
    side: usize,
    number: usize,
    turn: Option<OwnedSemaphorePermit>,
) {
    let group = &shared.plan.sides[side].group;
    let device = Device {
        id: shared.plan.sides[side].id(number),
        at: (side, number),
        epoch: fleet::first_epoch(),
        ticket: (group.tls == Tls::Resume).then(Arc::default),
        shared: shared.clone(),
    };
    match group.misbehaviour(number) {
        Some(kind) => {
            drop(turn);
            Box::pin(misbehave::run(&device, kind)).await;
        }
        None => device.live(turn).await,
    }
}

impl Device {
    fn side(&self) -> &Side {
        &self.shared.plan.sides[self.at.0]
    }

    /// Among all of the scenario: spreads devices over source addresses.
    fn overall(&self) -> usize {
        self.side().overall(self.at.1)
    }

    /// A line of the history.
    fn note(&self, epoch: u32, sequence: u64, kind: Kind) {
        let mut pen = self.shared.pen.borrow_mut();
        if pen.writes() {
            pen.write(&Line { time: history::now(), device: &self.id, epoch, sequence, kind });
        }
    }

    /// For its next connection.
    fn tls(&self) -> Option<Arc<ClientConfig>> {
        let tls = self.side().tls.as_ref()?;
        Some(self.ticket.as_ref().map_or_else(|| tls.clone(), |ticket| ticket.resuming(tls)))
    }

    async fn stopped(&self) {
        fleet::stopped(&mut self.shared.phase.clone()).await;
    }

    fn work(&self) -> Work {
        let side = self.side();
        let outbox = |op, stream: &crate::scenario::Stream| {
            let period = stream.rate.and_then(|rate| side.period(rate, self.at.1));
            Outbox::new(op, stream, Pace::new(stream.rate.is_some(), period))
        };
        let mut phase = self.shared.phase.clone();
        phase.mark_changed();
        Work {
            telemetry: outbox(Op::Telemetry, &side.group.telemetry),
            reports: outbox(Op::Report, &side.group.reports),
            phase,
        }
    }

    async fn live(mut self, mut turn: Option<OwnedSemaphorePermit>) {
        let shared = self.shared.clone();
        let tally = &shared.tally;
        let retry = self.side().retry();
        // Made once it is connected: an idle device needs none.
        let mut work: Option<Box<Work>> = None;
        // Since when it is not connected, and in how many tries.
        let (mut since, mut tries) = (Instant::now(), 0);
        // Whether it has not tried since then; whether it never was connected.
        let (mut begins, mut first) = (true, true);
        loop {
            // Boxed and gone once connected: an idle device keeps only what follows.
            let attempt = Box::pin(self.connect());
            if std::mem::take(&mut begins) {
                tally.started(Op::Connect, 1);
            }
            let connected = tokio::select! {
                connected = attempt => connected,
                () = self.stopped() => return,
            };
            turn.take();
            let mut lasting = false;
            match connected {
                Ok(connection) => {
                    tally.done(Op::Connect, since.elapsed());
                    tally.count(Event::Up, 1);
                    if std::mem::take(&mut first) {
                        tally.count(Event::Connected, 1);
                    }
                    self.note(self.epoch, 0, Kind::Connect);
                    let ended = self.serve(connection, &mut work).await;
                    if !matches!(ended, Ok(End::Silent)) {
                        self.note(self.epoch, 0, Kind::Disconnect);
                    }
                    self.epoch += 1;
                    (since, tries, begins) = (Instant::now(), 0, true);
                    match ended {
                        Ok(End::Stopped) => return tally.count(Event::Down, 1),
                        Ok(End::Silent) => return,
                        Ok(End::Again) => {
                            tally.count(Event::Down, 1);
                            continue;
                        }
                        Err(error) => {
                            tally.lost(&format!("{error:#}"));
                            if self.side().group.retry.is_none() {
                                return;
                            }
                        }
                    }
                }
                Err(error) => {
                    let throttled = error.downcast_ref::<Throttled>().is_some();
                    if throttled {
                        tally.count(Event::Throttled, 1);
                    } else {
                        lasting = self.side().group.retry.is_none();
                    }
                    lasting |= since.elapsed().as_secs_f64() > retry.give_up;
                    if lasting || !throttled {
                        tally.failed(Op::Connect, &format!("{error:#}"));
                    }
                }
            }
            if lasting {
                return tally.count(Event::GaveUp, 1);
            }
            tokio::select! {
                () = sleep(retry.wait(tries)) => tries += 1,
                () = self.stopped() => return,
            }
        }
    }

    async fn connect(&self) -> Result<Connection> {
        let connecting = timeout(CONNECT, async {
            match self.side().group.protocol {
                Protocol::Mqtt | Protocol::MqttWs => {
                    Ok(Connection::Mqtt(Box::new(mqtt::connect(self).await?)))
                }
                Protocol::Https => Ok(Connection::Https(Box::new(https::connect(self).await?))),
            }
        });
        connecting.await.map_err(|_| anyhow!("not connected within {CONNECT:?}"))?
    }

    async fn serve(&self, connection: Connection, work: &mut Option<Box<Work>>) -> Result<End> {
        match connection {
            Connection::Mqtt(link) if self.side().group.idle => {
                self.shared.silent.borrow_mut().push(link.into_socket()?);
                self.shared.tally.count(Event::Silent, 1);
                Ok(End::Silent)
            }
            Connection::Mqtt(link) => {
                let work = work.get_or_insert_with(|| Box::new(self.work()));
                let ended = mqtt::serve(self, link, work).await;
                work.telemetry.give_up(self);
                work.reports.give_up(self);
                ended
            }
            Connection::Https(client) => https::serve(self, *client).await,
        }
    }
}

#[cfg(test)]
impl Device {
    /// Of a group of two, in a run that has not begun.
    pub fn for_tests() -> Result<Self> {
        let (shared, id) = (fleet::shared_for_tests()?, "load-000000".into());
        Ok(Self { shared, at: (0, 0), id, epoch: 0, ticket: None })
    }
}

#[cfg(test)]
mod throttled;

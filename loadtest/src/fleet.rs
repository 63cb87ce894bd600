//! All devices of a run: spread over threads, led through phases together.

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use crate::args::{Rate, Run, Work};
use crate::caller;
use crate::device::{self, Shared};
use crate::outcome::{Event, Slice, Tally, Totals};
use crate::target::Target;

/// What every device of a run knows.
pub struct Plan {
    pub target: Target,
    pub prefix: String,
    pub devices: usize,
    pub work: Work,
    pub rate: Option<Rate>,
    pub window: u16,
    pub body: Vec<u8>,
    pub keep_alive: u16,
    pub subscribe: bool,
    pub drop_tls: bool,
    /// Turns for connecting.
    pub connecting: Semaphore,
}

impl Plan {
    /// For the first `devices` of a run.
    pub fn of(run: &Run, devices: usize) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            target: Target::of(&run.hub, &run.broker, run.websocket)?,
            prefix: run.prefix.clone(),
            devices,
            work: run.work,
            rate: run.rate,
            window: run.window,
            body: (0..run.size).map(|at| b"0123456789abcdef"[at % 16]).collect(),
            keep_alive: if run.idle_drops_tls { 1_170 } else { run.keep_alive },
            subscribe: !run.no_subscribe,
            drop_tls: run.idle_drops_tls,
            connecting: Semaphore::new(run.connecting.max(1)),
        }))
    }

    /// What the topics of calls and answers begin with; a broker's devices have one each.
    pub fn methods(&self, id: &str) -> String {
        if self.target.hub.is_some() { "$iothub/methods".into() } else { format!("{id}/methods") }
    }

    #[cfg(test)]
    pub fn for_tests(window: u16, rate: Option<Rate>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let target = Target {
            address: ([127, 0, 0, 1], 1).into(),
            name: "localhost".try_into()?,
            tls: Arc::new(tls),
            hub: None,
            websocket: false,
        };
        let connecting = Semaphore::new(1);
        let (prefix, body, work) = (String::new(), vec![b'x'; 16], Work::Publish);
        let (devices, keep_alive, subscribe, drop_tls) = (2, 60, false, false);
        Ok(Self {
            target,
            prefix,
            devices,
            work,
            rate,
            window,
            body,
            keep_alive,
            subscribe,
            drop_tls,
            connecting,
        })
    }
}

/// What devices do now.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    Idle,
    /// Everyone publishes one message; each time the phase is entered.
    Burst,
    Publish(Schedule),
    /// Everyone disconnects.
    Stop,
}

/// When to publish.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub start: Instant,
    pub until: Instant,
}

/// Devices that run.
pub struct Fleet {
    threads: Vec<JoinHandle<Result<()>>>,
    tallies: Vec<Arc<Tally>>,
    phase: watch::Sender<Phase>,
}

impl Fleet {
    /// Starts connecting.
    pub fn start(plan: &Arc<Plan>, threads: usize) -> Result<Self> {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = if threads == 0 { processors() } else { threads }.min(plan.devices.max(1));
        let (phase, follow) = watch::channel(Phase::Idle);
        let mut fleet = Self { threads: Vec::new(), tallies: Vec::new(), phase };
        for thread in 0..count {
            let name = format!("devices-{thread}");
            fleet.spawn(name, plan, &follow, move |shared| devices(shared, thread, count))?;
        }
        if plan.work == Work::Call {
            fleet.spawn("caller".into(), plan, &follow, caller::run)?;
        }
        Ok(fleet)
    }

    /// A thread with a runtime of its own: devices never move between threads, so that nothing but
    /// counters is shared.
    fn spawn<F: Future<Output = Result<()>>>(
        &mut self,
        name: String,
        plan: &Arc<Plan>,
        phase: &watch::Receiver<Phase>,
        work: impl FnOnce(Rc<Shared>) -> F + Send + 'static,
    ) -> Result<()> {
        let tally = Arc::new(Tally::default());
        self.tallies.push(tally.clone());
        let (plan, phase) = (plan.clone(), phase.clone());
        let thread = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (scratch, silent) = Default::default();
            let shared = Rc::new(Shared { plan, phase, tally, scratch, silent });
            LocalSet::new().block_on(&runtime, work(shared))
        };
        self.threads.push(std::thread::Builder::new().name(name).spawn(thread)?);
        Ok(())
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub fn totals(&self) -> Totals {
        Totals::of(self.tallies.iter().map(|tally| &**tally))
    }

    /// What all counted since the last cut.
    pub fn cut(&self) -> Slice {
        let mut all = Slice::default();
        self.tallies.iter().for_each(|tally| all.add(&tally.cut()));
        all
    }

    /// Disconnects everyone; what they counted since the last cut.
    pub fn stop(mut self) -> Result<Slice> {
        self.enter(Phase::Stop);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a client thread panicked"))??;
        }
        Ok(self.cut())
    }
}

/// Every `threads`th device, to the end of all of them.
async fn devices(shared: Rc<Shared>, thread: usize, threads: usize) -> Result<()> {
    let mut devices = JoinSet::new();
    for number in (thread..shared.plan.devices).step_by(threads) {
        devices.spawn_local(device::run(shared.clone(), number));
    }
    while let Some(ended) = devices.join_next().await {
        ended.context("a device's task panicked")?;
    }
    // Silent devices have no task.
    let _ = shared.phase.clone().wait_for(|phase| matches!(phase, Phase::Stop)).await;
    for socket in shared.silent.borrow().iter() {
        if is_open(socket) {
            shared.tally.count(Event::Down, 1);
        } else {
            shared.tally.lost("closed by the server (seen at the end)");
        }
    }
    Ok(())
}

/// Whether the server still holds its side.
fn is_open(socket: &std::net::TcpStream) -> bool {
    match socket.peek(&mut [0]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

//! The figures of a part of a run: connecting, bursts, what is measured, silence; memory.

use serde::Serialize;

use super::course::{Phase, Used};
use super::phase;
use crate::process::{Cpu, Memory};

#[derive(Debug, Serialize)]
pub struct Connecting {
    pub connect_seconds: f64,
    pub connects_per_s: f64,
    pub client_cpu_us_per_connect: f64,
    pub server_cpu_us_per_connect: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Bursts {
    pub burst_rounds: usize,
    /// Of each round: until everyone had its PUBACK.
    pub burst_seconds: Vec<f64>,
}

/// Of the seconds that are measured only.
#[derive(Debug, Serialize)]
pub struct Publishing {
    pub measured_seconds: f64,
    pub measured_acked: u64,
    pub messages_per_s: f64,
    pub client_cpu_us_per_message: f64,
    pub server_cpu_us_per_message: Option<f64>,
    pub server_user_us_per_message: Option<f64>,
    pub server_system_us_per_message: Option<f64>,
    pub server_cpu_cores: Option<f64>,
    /// Context switches of all its threads per thousand messages.
    pub server_switches_per_1000: Option<f64>,
}

/// Of the seconds in which devices only stay connected.
#[derive(Debug, Serialize)]
pub struct Silence {
    pub silence_seconds: f64,
    /// Of one processor.
    pub silence_server_cpu_percent: f64,
}

/// All phases of a name.
pub struct Part {
    seconds: f64,
    /// Operations that were done, but connecting.
    done: u64,
    used: Used,
    watched: bool,
}

impl Part {
    /// None: it did not come to that.
    pub fn of(phases: &[Phase], name: &str, watched: bool) -> Option<Self> {
        let mut part = Self { seconds: 0.0, done: 0, used: Used::default(), watched };
        for phase in phases.iter().filter(|phase| phase.name == name) {
            part.seconds += phase.until - phase.from;
            let done = phase.slice.ops.iter().filter(|(op, _)| op.is_whole());
            part.done += done.map(|(_, work)| work.done).sum::<u64>();
            part.used.own += phase.used.own;
            part.used.server += phase.used.server;
            part.used.switches += phase.used.switches;
        }
        (part.seconds > 0.0).then_some(part)
    }

    pub fn connecting(&self, connected: u64) -> Connecting {
        let each = |cpu: Cpu| cpu.total() * 1e6 / connected.max(1) as f64;
        Connecting {
            connect_seconds: self.seconds,
            connects_per_s: connected as f64 / self.seconds,
            client_cpu_us_per_connect: each(self.used.own),
            server_cpu_us_per_connect: self.watched.then(|| each(self.used.server)),
        }
    }

    pub fn publishing(&self) -> Option<Publishing> {
        let per_message = |cpu: f64| cpu * 1e6 / self.done as f64;
        let server = self.watched.then_some(self.used.server);
        (self.done > 0).then(|| Publishing {
            measured_seconds: self.seconds,
            measured_acked: self.done,
            messages_per_s: self.done as f64 / self.seconds,
            client_cpu_us_per_message: per_message(self.used.own.total()),
            server_cpu_us_per_message: server.map(|cpu| per_message(cpu.total())),
            server_user_us_per_message: server.map(|cpu| per_message(cpu.user)),
            server_system_us_per_message: server.map(|cpu| per_message(cpu.system)),
            server_cpu_cores: server.map(|cpu| cpu.total() / self.seconds),
            server_switches_per_1000: self
                .watched
                .then(|| self.used.switches as f64 * 1e3 / self.done as f64),
        })
    }

    pub fn silence(&self) -> Option<Silence> {
        (self.done == 0 && self.watched).then(|| Silence {
            silence_seconds: self.seconds,
            silence_server_cpu_percent: 100.0 * self.used.server.total() / self.seconds,
        })
    }
}

impl Bursts {
    pub fn of(phases: &[Phase]) -> Option<Self> {
        let rounds = phases.iter().filter(|phase| phase.name == phase::BURST);
        let burst_seconds: Vec<_> = rounds.map(|phase| phase.until - phase.from).collect();
        let burst_rounds = burst_seconds.len();
        (burst_rounds > 0).then_some(Self { burst_rounds, burst_seconds })
    }
}

/// Memory of the watched processes at one moment.
#[derive(Debug, Serialize)]
pub struct Sample {
    pub at: &'static str,
    #[serde(flatten)]
    pub memory: Memory,
    /// Bytes more than in the first sample, for each connection.
    pub rss_per_connection: Option<f64>,
    /// The same of the kernel's slabs: of both ends of the connection, if both are here.
    pub slab_per_connection: Option<f64>,
    /// How long it took to stop moving; none: it had not, or was not waited for.
    pub settled_after: Option<f64>,
}

impl Sample {
    pub fn new(
        at: &'static str,
        memory: Memory,
        base: Memory,
        connections: u64,
        settled_after: Option<f64>,
    ) -> Self {
        let each = |now: u64, before: u64| {
            let bytes = (now as f64 - before as f64) * 1024.0;
            (connections > 0).then(|| bytes / connections as f64)
        };
        Self {
            at,
            rss_per_connection: each(memory.rss, base.rss),
            slab_per_connection: each(memory.slab, base.slab),
            memory,
            settled_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_per_connection() {
        let base = Memory { rss: 1_000, slab: 500, ..Memory::default() };
        let later = Memory { rss: 2_000, slab: 400, ..Memory::default() };
        let sample = Sample::new("x", later, base, 100, None);
        assert_eq!(sample.rss_per_connection, Some(10_240.0));
        assert_eq!(sample.slab_per_connection, Some(-1_024.0));
        assert_eq!(Sample::new("x", later, base, 0, None).rss_per_connection, None);
    }
}

//! Durable appends per second, and CPU per append, of the event log and of what could stand in
//! for it. Run: `cargo run --release [seconds] [folder]` in this folder.
//!
//! N writers each append 256 bytes and wait for their ack before the next. They are driven by one
//! thread, as a gateway worker drives its connections. Every candidate gets what waits as one
//! group, so none pays for a thread per writer.

mod engines;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use dunlin_storage::event_log::{
    Completion, Completions, EventLog, Header, Record, SegmentLog, SegmentLogConfig, TOPIC_D2C,
    Token,
};
use dunlin_storage::sqlite::DataFolder;
use engines::Engine;

/// Random, so that a candidate that compresses gains nothing by it.
const BODY: [u8; 256] = {
    let mut body = [0; 256];
    let (mut n, mut state) = (0, 0x9e37_79b9_u32);
    while n < body.len() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        body[n] = state as u8;
        n += 1;
    }
    body
};
const WRITERS: [usize; 3] = [1, 100, 1_000];
const ROUNDS: usize = 3;
/// Candidates take turns this often: the disk is not equally fast at all times, and removing one's
/// files would slow the next.
const SLICE: Duration = Duration::from_millis(100);

/// Writer ids, handed from one thread to another in groups.
#[derive(Default)]
struct Exchange {
    ids: Mutex<Option<Vec<u64>>>,
    arrived: Condvar,
}

impl Exchange {
    fn put(&self, ids: impl Iterator<Item = u64>) {
        self.ids.lock().unwrap().get_or_insert_default().extend(ids);
        self.arrived.notify_one();
    }

    fn take(&self, into: &mut Vec<u64>) {
        into.clear();
        let ids = self.ids.lock().unwrap();
        let mut ids =
            self.arrived.wait_while(ids, |ids| ids.as_ref().is_none_or(Vec::is_empty)).unwrap();
        std::mem::swap(ids.as_mut().unwrap(), into);
    }
}

#[derive(Default)]
struct Figures {
    records: usize,
    seconds: f64,
    cpu_seconds: f64,
}

/// Begins one append of each writer that is given.
type Append = Box<dyn FnMut(&[u64])>;

struct Candidate {
    name: &'static str,
    append: Append,
    acked: Arc<Exchange>,
    all: Figures,
}

impl Candidate {
    /// Appends for the given time, and waits for what is under way then.
    fn run(&mut self, writers: usize, time: Duration) {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let ids: Vec<_> = (0..writers as u64).collect();
        (self.append)(&ids);
        let mut open = writers;
        let mut done = Vec::new();
        while open > 0 {
            self.acked.take(&mut done);
            self.all.records += done.len();
            if start.elapsed() < time {
                (self.append)(&done);
            } else {
                open -= done.len();
            }
        }
        self.all.seconds += start.elapsed().as_secs_f64();
        self.all.cpu_seconds += cpu_seconds() - cpu;
    }
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn engine(name: &'static str, mut engine: Box<dyn Engine>) -> Candidate {
    let asked = Arc::new(Exchange::default());
    let acked = Arc::new(Exchange::default());
    let (asks, acks) = (Arc::clone(&asked), Arc::clone(&acked));
    std::thread::spawn(move || {
        let mut group = Vec::new();
        loop {
            asks.take(&mut group);
            engine.commit(&group);
            acks.put(group.iter().copied());
        }
    });
    let append = Box::new(move |ids: &[u64]| {
        if !ids.is_empty() {
            asked.put(ids.iter().copied());
        }
    });
    Candidate { name, append, acked, all: Figures::default() }
}

struct Acks(Arc<Exchange>);

impl Completions for Acks {
    fn complete(&self, batch: &[Completion]) {
        assert!(batch.iter().all(|completion| completion.durable));
        self.0.put(batch.iter().map(|completion| completion.token.connection));
    }
}

fn segment_log(folder: &Path) -> Candidate {
    let data = DataFolder::open(folder.join("data")).unwrap();
    let config = SegmentLogConfig::default();
    let log = SegmentLog::open(&folder.join("log"), data.sqlite(), config).unwrap();
    let acked = Arc::new(Exchange::default());
    let sink: Arc<dyn Completions> = Arc::new(Acks(Arc::clone(&acked)));
    let keys: Vec<_> = (0..1_000).map(|n| format!("device-{n}")).collect();
    let headers = [
        Header { name: "$.iothub-connection-device-id", value: Some("device") },
        Header { name: "$.content-type", value: Some("application/json") },
    ];
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    let append = Box::new(move |ids: &[u64]| {
        for id in ids {
            let record = Record {
                key: keys[*id as usize].as_bytes(),
                headers: &headers,
                body: &BODY,
                enqueued: now(),
            };
            let token = Token { connection: *id, sequence: 0 };
            log.append(TOPIC_D2C, record, token, Some(&sink)).unwrap();
        }
    });
    Candidate { name: "SegmentLog", append, acked, all: Figures::default() }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().map_or(3.0, |s| s.parse().unwrap());
    let base = args.next().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let slices = (seconds / SLICE.as_secs_f64()).ceil() as usize;
    let temp = tempfile::tempdir_in(&base).unwrap();
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for writers in WRITERS {
        let mut candidates: Vec<_> = std::iter::once("SegmentLog")
            .chain(engines::ALL.iter().map(|(name, _)| *name))
            .enumerate()
            .map(|(n, name)| {
                let folder = temp.path().join(format!("{name}-{writers}"));
                std::fs::create_dir_all(&folder).unwrap();
                match n {
                    0 => segment_log(&folder),
                    n => engine(name, engines::ALL[n - 1].1(&folder)),
                }
            })
            .collect();
        // Warm: files created, buffers grown.
        for candidate in &mut candidates {
            candidate.run(writers, SLICE);
            candidate.all = Figures::default();
        }
        // Each run of medians is of slices that are spread over the whole time.
        let mut runs: Vec<Vec<(f64, f64)>> = vec![Vec::new(); candidates.len()];
        for _ in 0..ROUNDS {
            for slice in 0..slices {
                let count = candidates.len();
                for n in 0..count {
                    candidates[(n + slice) % count].run(writers, SLICE);
                }
            }
            for (candidate, runs) in candidates.iter_mut().zip(&mut runs) {
                let all = std::mem::take(&mut candidate.all);
                let records = all.records as f64;
                runs.push((records / all.seconds, all.cpu_seconds * 1e6 / records));
            }
        }
        for (n, (candidate, runs)) in candidates.iter().zip(&mut runs).enumerate() {
            let median = |mut values: Vec<f64>| {
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let rate = median(runs.iter().map(|run| run.0).collect());
            let cpu = median(runs.iter().map(|run| run.1).collect());
            eprintln!("{:<12} {writers:>5} writers: {runs:.1?}", candidate.name);
            if rows.len() <= n {
                rows.push((candidate.name, Vec::new()));
            }
            rows[n].1.push(format!("{rate:.0}"));
            if writers == 1_000 {
                rows[n].1.push(format!("{cpu:.2} µs"));
            }
        }
    }
    println!("| candidate | appends/s: 1 writer | 100 | 1,000 | CPU per append at 1,000 |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (name, cells) in rows {
        println!("| {name} | {} |", cells.join(" | "));
    }
    // Committer threads wait for ever: the process ends them. The folder goes first.
    drop(temp);
    std::process::exit(0);
}

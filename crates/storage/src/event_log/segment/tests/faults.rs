//! A disk that refuses: what is told to callers, and how the log goes on.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use super::super::disk::{Disk, RealDisk};
use super::*;
use crate::event_log::conformance::{Collector, token};
use crate::event_log::{Completions, Full};
use crate::lock;

/// A disk whose faults a test switches, and whose syncs it can hold up.
#[derive(Default)]
struct Faults {
    write: AtomicBool,
    sync: AtomicBool,
    truncate: AtomicBool,
    create: AtomicBool,
    /// Announces each sync, then waits for leave.
    gate: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

struct FaultyDisk(Arc<Faults>);

fn fail_if(fault: &AtomicBool) -> io::Result<()> {
    if fault.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<File> {
        fail_if(&self.0.create)?;
        RealDisk.create(path)
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.0.write.load(Ordering::SeqCst) {
            // As a full disk does: some of it is written.
            RealDisk.write(file, &bytes[..bytes.len() / 2], at)?;
        }
        fail_if(&self.0.write)?;
        RealDisk.write(file, bytes, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if let Some((announce, leave)) = &*lock(&self.0.gate) {
            let _ = announce.send(());
            let _ = leave.recv();
        }
        fail_if(&self.0.sync)?;
        RealDisk.sync(file)
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        fail_if(&self.0.truncate)?;
        RealDisk.truncate(file, length)
    }
}

struct Rig {
    place: Place,
    faults: Arc<Faults>,
    log: SegmentLog,
    collector: Arc<Collector>,
    sink: Arc<dyn Completions>,
    asked: usize,
}

impl Rig {
    fn new(config: SegmentLogConfig) -> Self {
        let place = Place::new();
        let faults = Arc::new(Faults::default());
        let disk = Box::new(FaultyDisk(Arc::clone(&faults)));
        let (path, sqlite) = (place.path("log"), place.folder.sqlite());
        let log = SegmentLog::open_with(&path, sqlite, config, disk, Box::new(|| 0)).expect("open");
        let collector = Collector::new();
        let sink: Arc<dyn Completions> = collector.clone();
        Self { place, faults, log, collector, sink, asked: 0 }
    }

    fn append(&mut self, body: &str) -> Result<(), Full> {
        let token = token(0, self.asked as u64);
        self.log.append(TOPIC_D2C, record("device", body), token, Some(&self.sink))?;
        self.asked += 1;
        Ok(())
    }

    /// What came of everything so far, in the order of appending.
    async fn outcomes(&self) -> Vec<bool> {
        let told = self.collector.wait(self.asked).await;
        assert!(told.iter().map(|c| c.token.sequence).eq(0..self.asked as u64), "once, in order");
        told.iter().map(|completion| completion.durable).collect()
    }

    async fn bodies(&self) -> Vec<String> {
        let events = everything(&self.log).await;
        events.iter().map(|e| String::from_utf8_lossy(&e.body).into_owned()).collect()
    }

    /// The file's syncs wait for leave from now on.
    fn hold_syncs(&self) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (announce, announced) = mpsc::channel();
        let (leave, left) = mpsc::channel();
        *lock(&self.faults.gate) = Some((announce, left));
        (announced, leave)
    }
}

/// One way a disk fails, and whether a new segment can be created meanwhile.
async fn fails_and_recovers(fault: fn(&Faults) -> Vec<&AtomicBool>) {
    let mut rig = Rig::new(small());
    rig.append("before").expect("room");
    assert_eq!(rig.outcomes().await, [true]);
    for fault in fault(&rig.faults) {
        fault.store(true, Ordering::SeqCst);
    }
    rig.append("lost 1").expect("room");
    assert_eq!(rig.outcomes().await, [true, false]);
    rig.append("lost 2").expect("room");
    assert_eq!(rig.outcomes().await, [true, false, false]);
    assert_eq!(rig.bodies().await, ["before"]);
    for fault in fault(&rig.faults) {
        fault.store(false, Ordering::SeqCst);
    }
    rig.append("after").expect("room");
    assert_eq!(rig.outcomes().await, [true, false, false, true]);
    assert_eq!(rig.bodies().await, ["before", "after"]);
    // A crash now changes nothing of it; whatever else is read was appended once.
    rig.place.copy("log", "crashed");
    let log = rig.place.open("crashed", small());
    let events = everything(&log).await;
    let durable: Vec<_> = events.iter().filter(|e| !e.body.starts_with(b"lost")).collect();
    assert_eq!(durable.len(), 2);
    assert!(events.iter().map(|e| e.offset).is_sorted_by(|a, b| a < b));
}

#[tokio::test]
async fn a_full_disk_fails_until_there_is_space() {
    fails_and_recovers(|faults| vec![&faults.write]).await;
}

#[tokio::test]
async fn a_failed_sync_fails_its_batch() {
    fails_and_recovers(|faults| vec![&faults.sync]).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_cut_back_is_left_behind() {
    fails_and_recovers(|faults| vec![&faults.sync, &faults.truncate]).await;
}

#[tokio::test]
async fn without_a_new_segment_everything_fails() {
    fails_and_recovers(|faults| vec![&faults.write, &faults.create, &faults.truncate]).await;
}

#[tokio::test]
async fn what_waits_behind_a_failed_batch_fails_with_it() {
    let mut rig = Rig::new(small());
    rig.append("before").expect("room");
    rig.outcomes().await;
    let (announced, leave) = rig.hold_syncs();
    rig.append("failing").expect("room");
    announced.recv().expect("a sync");
    // The batch is on its way to fail; nobody was told yet.
    rig.append("behind 1").expect("room");
    rig.append("behind 2").expect("room");
    rig.faults.sync.store(true, Ordering::SeqCst);
    leave.send(()).expect("gate");
    assert_eq!(rig.outcomes().await, [true, false, false, false]);
    rig.faults.sync.store(false, Ordering::SeqCst);
    // Every later sync is free to go.
    for _ in 0..9 {
        let _ = leave.send(());
    }
    rig.append("after").expect("room");
    assert_eq!(rig.outcomes().await, [true, false, false, false, true]);
    assert_eq!(rig.bodies().await, ["before", "after"]);
}

#[tokio::test]
async fn a_full_queue_refuses_until_it_has_fallen() {
    let mut rig = Rig::new(SegmentLogConfig { pending_bytes: 1_000, ..small() });
    let (announced, leave) = rig.hold_syncs();
    rig.append("first").expect("room");
    announced.recv().expect("a sync");
    let body = "x".repeat(100);
    while rig.append(&body).is_ok() {}
    let accepted = rig.asked;
    assert!((7..=10).contains(&accepted), "{accepted} records of about 140 bytes");
    {
        let mut writable = rig.log.writable();
        let first_poll = std::future::poll_fn(|cx| Poll::Ready(writable.as_mut().poll(cx))).await;
        assert!(first_poll.is_pending());
        for _ in 0..9 {
            let _ = leave.send(());
        }
        writable.await;
    }
    rig.append(&body).expect("room again");
    assert_eq!(rig.outcomes().await, vec![true; accepted + 1]);
    rig.log.writable().await;
}

/// A record bigger than the whole queue must not be refused for ever.
#[tokio::test]
async fn an_empty_queue_takes_any_record() {
    let mut rig = Rig::new(SegmentLogConfig { pending_bytes: 10, ..small() });
    rig.append(&"x".repeat(10_000)).expect("room");
    assert_eq!(rig.outcomes().await, [true]);
}

struct Panicking;

impl Completions for Panicking {
    fn complete(&self, _: &[crate::event_log::Completion]) {
        panic!("on purpose");
    }
}

#[tokio::test]
async fn a_panicking_sink_harms_no_other() {
    let mut rig = Rig::new(small());
    let panicking: Arc<dyn Completions> = Arc::new(Panicking);
    rig.log.append(TOPIC_D2C, record("a", ""), token(9, 9), Some(&panicking)).expect("room");
    rig.append("sound").expect("room");
    assert_eq!(rig.outcomes().await, [true]);
}

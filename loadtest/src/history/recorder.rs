//! Writes a history. A thread has a `Pen` of its own, which puts lines into a buffer; what is full
//! goes to one writer thread. So a line costs no system call and no lock (docs/measurements.md).

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};

use super::{Line, now};

/// What a history begins with; a name for who writes it and the time follow.
pub const HEADER: &str = "dunlin-history 1";
/// A buffer of this many bytes is handed over...
const BUFFER: usize = 64 * 1024;
/// ...and one whose first line is older than this, in microseconds: what a killed worker loses.
const OLD: u64 = 1_000_000;
/// Buffers that may wait for the disk; then a pen waits, and loses nothing.
const WAITING: usize = 64;

enum Order {
    Write(Vec<u8>, u64),
    End { drained: bool },
}

/// A history that is being written.
pub struct Recorder {
    orders: SyncSender<Order>,
    writer: JoinHandle<Result<u64>>,
    /// Why nothing more is written.
    trouble: Arc<OnceLock<String>>,
    /// One more for each pen.
    pens: Arc<()>,
}

impl Recorder {
    /// Begins a file, which may not be there yet. `who` is one word: a worker, a log's reader.
    pub fn create(path: &Path, who: &str) -> Result<Self> {
        let cannot = || format!("cannot create the history {}", path.display());
        let mut file = File::create_new(path).with_context(cannot)?;
        writeln!(file, "{HEADER} {who} {}", now()).with_context(cannot)?;
        Self::start(file, path)
    }

    fn start(mut file: File, path: &Path) -> Result<Self> {
        let (orders, receiver) = sync_channel(WAITING);
        let name = path.display().to_string();
        let trouble = Arc::new(OnceLock::new());
        let told = trouble.clone();
        let write = move || {
            let written = write(&mut file, &receiver).with_context(|| format!("history {name}"));
            written.inspect_err(|error| {
                told.get_or_init(|| format!("{error:#}"));
            })
        };
        let writer = std::thread::Builder::new().name("history".into()).spawn(write)?;
        Ok(Self { orders, writer, trouble, pens: Arc::new(()) })
    }

    /// Whether lines are still written: a run without them proves nothing, and need not go on.
    pub fn check(&self) -> Result<()> {
        self.trouble.get().map_or(Ok(()), |why| Err(anyhow!("{why}")))
    }

    pub fn pen(&self) -> Pen {
        let ink = Ink {
            orders: self.orders.clone(),
            buffer: Vec::with_capacity(BUFFER),
            lines: 0,
            since: 0,
            _pen: self.pens.clone(),
        };
        Pen(Some(ink))
    }

    /// Ends the file, once every pen is dropped; how many lines it has. `drained`: who has sent C2D
    /// messages here has waited until each had come to its end and its feedback was read.
    pub fn finish(self, drained: bool) -> Result<u64> {
        if Arc::strong_count(&self.pens) > 1 {
            bail!("a history ends before those who write it");
        }
        // Fails if the writer has ended early: it says why.
        let _ = self.orders.send(Order::End { drained });
        self.writer.join().map_err(|_| anyhow!("the history's writer panicked"))?
    }
}

fn write(file: &mut File, orders: &Receiver<Order>) -> Result<u64> {
    let mut written = 0;
    while let Ok(order) = orders.recv() {
        match order {
            Order::Write(text, lines) => {
                file.write_all(&text)?;
                written += lines;
            }
            Order::End { drained } => {
                let drained = if drained { "drained" } else { "open" };
                writeln!(file, "end {} {written} {drained}", now())?;
                return Ok(written);
            }
        }
    }
    bail!("nobody has ended it")
}

/// Where one thread writes lines. Those of one pen stay in their order. The default one writes
/// nothing: nobody wants a history.
#[derive(Default)]
pub struct Pen(Option<Ink>);

struct Ink {
    orders: SyncSender<Order>,
    buffer: Vec<u8>,
    lines: u64,
    /// Time of the first line in the buffer.
    since: u64,
    _pen: Arc<()>,
}

impl Pen {
    /// Whether lines are kept.
    pub fn writes(&self) -> bool {
        self.0.is_some()
    }

    pub fn write(&mut self, line: &Line<'_>) {
        if let Some(ink) = &mut self.0 {
            if ink.lines == 0 {
                ink.since = line.time;
            }
            line.write(&mut ink.buffer);
            ink.lines += 1;
            // A line is far shorter than a tenth of the buffer: it does not grow.
            let full = ink.buffer.len() > BUFFER * 9 / 10;
            if full || line.time.saturating_sub(ink.since) > OLD {
                ink.hand_over();
            }
        }
    }
}

impl Ink {
    /// If the writer has ended early, `finish` says why.
    fn hand_over(&mut self) {
        if self.lines > 0 {
            let text = std::mem::replace(&mut self.buffer, Vec::with_capacity(BUFFER));
            let _ = self.orders.send(Order::Write(text, std::mem::take(&mut self.lines)));
        }
    }
}

impl Drop for Ink {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn line(time: u64, sequence: u64) -> Line<'static> {
        Line { time, device: "d", epoch: 1, sequence, kind: Kind::Send }
    }

    #[test]
    fn what_all_pens_wrote_is_there_between_header_and_end() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.history");
        let recorder = Recorder::create(&path, "worker-0")?;
        let threads = [0, 1].map(|thread| {
            let mut pen = recorder.pen();
            std::thread::spawn(move || (0..5_000).for_each(|n| pen.write(&line(thread, n))))
        });
        for thread in threads {
            thread.join().map_err(|_| anyhow!("panicked"))?;
        }
        assert_eq!(recorder.finish(true)?, 10_000);
        let text = std::fs::read_to_string(&path)?;
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("dunlin-history 1 worker-0 1"), "{}", lines[0]);
        assert!(lines[10_001].starts_with("end 1"), "{}", lines[10_001]);
        assert!(lines[10_001].ends_with(" 10000 drained"), "{}", lines[10_001]);
        for thread in [0, 1] {
            let written = lines[1..10_001].iter().map(|line| Line::parse(line).expect("a line"));
            let of_it = written.filter(|line| line.time == thread).map(|line| line.sequence);
            assert!(of_it.eq(0..5_000), "in their order");
        }
        assert!(Recorder::create(&path, "again").is_err(), "it is not written over");
        Ok(())
    }

    #[test]
    fn a_line_does_not_wait_for_long() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.history");
        let recorder = Recorder::create(&path, "w")?;
        let mut pen = recorder.pen();
        pen.write(&line(7, 1));
        pen.write(&line(8 + OLD, 2));
        pen.write(&line(9 + OLD, 3));
        // What a killed worker leaves: without the pen's buffer, and without an end.
        std::mem::forget(pen);
        let Recorder { orders, writer, pens, .. } = recorder;
        orders.send(Order::End { drained: false })?;
        assert_eq!(writer.join().map_err(|_| anyhow!("panicked"))??, 2);
        drop(pens);
        Ok(())
    }

    #[test]
    fn a_history_does_not_end_before_its_pens() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let recorder = Recorder::create(&folder.path().join("a.history"), "w")?;
        let _pen = recorder.pen();
        assert!(recorder.finish(false).is_err());
        Ok(())
    }

    #[test]
    fn a_full_disk_is_told_while_the_run_goes_on() -> Result<()> {
        let path = Path::new("/dev/full");
        let recorder = Recorder::start(File::options().write(true).open(path)?, path)?;
        recorder.check()?;
        recorder.pen().write(&line(1, 1));
        while recorder.check().is_ok() {
            std::thread::yield_now();
        }
        let error = recorder.check().expect_err("no space is left").to_string();
        assert!(error.contains("/dev/full: No space left"), "{error}");
        assert!(recorder.finish(true).is_err());
        Ok(())
    }

    #[test]
    fn a_pen_may_write_nothing() {
        let mut pen = Pen::default();
        assert!(!pen.writes());
        pen.write(&line(1, 1));
    }
}

//! Who runs the devices: this process, or workers of its own, processes that share them. A worker
//! reads what to do line by line, and answers each line that asks with what it has counted.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::args::Run;
use crate::fleet::{Fleet, Order};
use crate::outcome::{Event, Op, Slice};
use crate::plan::{Plan, Share};
use crate::process::{self, Own};

pub enum Crew {
    Here(Fleet),
    Workers(Workers),
}

/// What was counted since the last time, by one process; none: by this one.
pub type Part = (Slice, Option<Own>);

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Devices that have connected, or given up.
    pub settled: u64,
    /// Connections that there are.
    pub up: u64,
    /// Operations that are on their way.
    pub open: u64,
    /// What a history waits for: how much has come, and how much is missing.
    pub arrived: u64,
    pub awaited: u64,
    /// Telemetry messages that were sent.
    pub telemetry: u64,
}

impl Seen {
    fn of(event: impl Fn(Event) -> u64) -> Self {
        Self {
            settled: event(Event::Connected) + event(Event::GaveUp),
            up: event(Event::Up).saturating_sub(event(Event::Down)),
            arrived: event(Event::Arrived),
            awaited: event(Event::Awaited).saturating_sub(event(Event::Arrived)),
            ..Self::default()
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Ask {
    Enter(Order),
    Cut,
    Stop { drained: bool },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    slice: Slice,
    own: Own,
}

impl Crew {
    pub fn start(run: &Run, plan: Plan) -> Result<Self> {
        match run.workers {
            0 | 1 => Ok(Self::Here(fleet(run, plan, run.devices.worker.map(|(index, _)| index))?)),
            workers => {
                let start = |index| Worker::start(index, usize::from(workers));
                let each = (0..usize::from(workers)).map(start).collect::<Result<_>>()?;
                Ok(Self::Workers(Workers { each, all: Slice::default(), parts: Vec::new() }))
            }
        }
    }

    pub fn enter(&mut self, order: Order) -> Result<()> {
        match self {
            Self::Here(fleet) => fleet.enter(order.into()),
            Self::Workers(workers) => workers.tell(&Ask::Enter(order))?,
        }
        Ok(())
    }

    /// How often to look: a worker's answer costs something.
    pub fn look_every(&self) -> Duration {
        Duration::from_millis(if let Self::Here(_) = self { 2 } else { 100 })
    }

    pub fn seen(&mut self) -> Result<Seen> {
        match self {
            Self::Here(fleet) => {
                let totals = fleet.totals();
                let telemetry = [Op::Telemetry, Op::Burst].map(|op| totals.op(op).started);
                let telemetry = telemetry.iter().sum();
                Ok(Seen { open: totals.open(), telemetry, ..Seen::of(|event| totals.event(event)) })
            }
            Self::Workers(workers) => {
                workers.look(&Ask::Cut)?;
                let all = &workers.all;
                let whole = all.ops.iter().filter(|(op, _)| op.is_whole());
                let open = whole
                    .map(|(_, work)| work.started.saturating_sub(work.done + work.failed.all()));
                let telemetry = [Op::Telemetry, Op::Burst].iter().filter_map(|op| all.ops.get(op));
                let telemetry = telemetry.map(|work| work.started).sum();
                Ok(Seen { open: open.sum(), telemetry, ..Seen::of(|event| all.event(event)) })
            }
        }
    }

    /// What was counted since the last cut.
    pub fn cut(&mut self) -> Result<Vec<Part>> {
        match self {
            Self::Here(fleet) => {
                fleet.check()?;
                Ok(vec![(fleet.cut(), None)])
            }
            Self::Workers(workers) => {
                workers.look(&Ask::Cut)?;
                Ok(std::mem::take(&mut workers.parts))
            }
        }
    }

    /// Disconnects everyone. `drained` goes into the histories.
    pub fn stop(self, drained: bool) -> Result<Vec<Part>> {
        match self {
            Self::Here(fleet) => Ok(vec![(fleet.stop(drained)?, None)]),
            Self::Workers(mut workers) => {
                workers.look(&Ask::Stop { drained })?;
                for worker in &mut workers.each {
                    if !worker.child.wait()?.success() {
                        bail!("worker {} failed: see above", worker.index);
                    }
                }
                Ok(std::mem::take(&mut workers.parts))
            }
        }
    }
}

fn fleet(run: &Run, plan: Plan, worker: Option<usize>) -> Result<Fleet> {
    let who = format!("worker-{}", worker.unwrap_or(0));
    let history = run.history.as_deref().map(|path| numbered(path, worker));
    Fleet::start(plan, run.threads, history.as_deref().map(|path| (path, &*who)))
}

/// `path`, or `path.3`.
fn numbered(path: &Path, worker: Option<usize>) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.extend(
        worker.map(|worker| format!(".{worker}")).iter().map(AsRef::<std::ffi::OsStr>::as_ref),
    );
    name.into()
}

/// The part of one of so many workers.
pub fn share_of(share: &Share, (index, workers): (usize, usize)) -> Share {
    let (part, parts) = share.part;
    Share { range: share.range.clone(), part: (part * workers + index, parts * workers) }
}

pub struct Workers {
    each: Vec<Worker>,
    /// Since the start.
    all: Slice,
    /// Not handed on yet.
    parts: Vec<Part>,
}

impl Workers {
    fn tell(&mut self, ask: &Ask) -> Result<()> {
        self.each.iter_mut().try_for_each(|worker| worker.tell(ask))
    }

    /// All are asked before the first answer is waited for.
    fn look(&mut self, ask: &Ask) -> Result<()> {
        self.tell(ask)?;
        for worker in &mut self.each {
            let Reply { slice, own } = worker.reply()?;
            self.all.add(&slice);
            self.parts.push((slice, Some(own)));
        }
        Ok(())
    }
}

struct Worker {
    index: usize,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// The same command line, for one part of it. In a group of its own: a Ctrl-C is the parent's,
    /// which then closes the pipe.
    fn start(index: usize, workers: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).args(["--crew", &format!("{index}/{workers}")]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start a worker")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("a pipe that was asked for")?);
        Ok(Self { index, child, input, output })
    }

    fn tell(&mut self, ask: &Ask) -> Result<()> {
        let line = serde_json::to_string(ask)? + "\n";
        let input = self.input.as_mut().context("a worker that was stopped")?;
        input.write_all(line.as_bytes()).with_context(|| ended(self.index))
    }

    fn reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!(ended(self.index));
        }
        serde_json::from_str(&line).with_context(|| format!("worker {} says {line:?}", self.index))
    }
}

fn ended(worker: usize) -> String {
    format!("worker {worker} has ended: see above")
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without its input it stops by itself; if it was stopped before, nothing is left to do.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// A worker's life: until it is to stop, or its parent is gone.
pub fn serve(run: &Run, plan: Plan, index: usize) -> Result<()> {
    let parent = run.devices.worker.map_or(0, |(part, _)| part * usize::from(run.workers));
    let fleet = fleet(run, plan, Some(parent + index))?;
    let mut out = std::io::stdout().lock();
    let mut answer = |slice| -> Result<()> {
        let reply = Reply { slice, own: process::own()? };
        writeln!(out, "{}", serde_json::to_string(&reply)?)?;
        Ok(out.flush()?)
    };
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line?).context("not for people: --crew is the parent's")? {
            Ask::Enter(order) => fleet.enter(order.into()),
            Ask::Cut => {
                fleet.check()?;
                answer(fleet.cut())?;
            }
            Ask::Stop { drained } => return answer(fleet.stop(drained)?),
        }
    }
    fleet.stop(false)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_parts_are_all_devices_once() {
        let mut all: Vec<usize> = Vec::new();
        for machine in 0..3 {
            let share = Share { range: 5..40, part: (machine, 3) };
            (0..4).for_each(|worker| all.extend(share_of(&share, (worker, 4)).of(33)));
        }
        assert_eq!(all, (5..33).collect::<Vec<_>>());
    }

    #[test]
    fn histories_have_names_of_their_own() {
        assert_eq!(numbered(Path::new("/a/h"), None), Path::new("/a/h"));
        assert_eq!(numbered(Path::new("/a/h.txt"), Some(3)), Path::new("/a/h.txt.3"));
    }

    #[test]
    fn what_is_said_is_one_line() -> Result<()> {
        for (ask, text) in [
            (Ask::Enter(Order::Work(1.5)), r#"{"enter":{"work":1.5}}"#),
            (Ask::Enter(Order::Burst), r#"{"enter":"burst"}"#),
            (Ask::Stop { drained: true }, r#"{"stop":{"drained":true}}"#),
        ] {
            assert_eq!(serde_json::to_string(&ask)?, text);
            serde_json::from_str::<Ask>(text)?;
        }
        Ok(())
    }
}

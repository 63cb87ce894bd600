//! `dunlin events monitor`: where it begins, and that it goes on over a restart of the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{Up, ask, bad, dunlin, good};
use crate::cli_simulate::{simulate, stored};

const DEADLINE: Duration = Duration::from_secs(60);

/// A running `events monitor --json`, killed when dropped.
struct Monitor {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    events: Vec<Value>,
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(from).lines().map_while(Result::ok);
        lines.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
    });
    receiver
}

impl Monitor {
    fn start(data: &Path, more: &[&str]) -> Self {
        let mut command = dunlin(&["events", "monitor", "--json"]);
        command.args(more).arg("--data").arg(data).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let stdout = lines(child.stdout.take().expect("piped"));
        let stderr = lines(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr, events: Vec::new() }
    }

    /// Reads until so many events have come.
    #[track_caller]
    fn read(&mut self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.events.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.stdout.recv_timeout(left);
            let have = self.events.len();
            let line = line.unwrap_or_else(|error| panic!("{have} of {count} events: {error}"));
            self.events.push(event(&line));
        }
    }

    #[track_caller]
    fn says(&self, what: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.stderr.recv_timeout(left).expect("a line");
            if line.contains(what) {
                return;
            }
        }
    }

    /// Of how many devices there are events of that run.
    fn devices(&self, run: &str) -> usize {
        let devices = self.events.iter().filter_map(|event| event["origin"].as_str());
        let devices: BTreeSet<_> = devices.filter(|device| device.starts_with(run)).collect();
        devices.len()
    }

    /// Events of that property, with their places.
    fn places(&self, run: &str) -> Vec<(u64, u64)> {
        places(&self.events, run)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The event of a line.
fn event(line: &str) -> Value {
    serde_json::from_str::<Value>(line).expect("JSON")["event"].take()
}

/// Partition and offset, sorted, of the events with the application property `run`.
fn places(events: &[Value], run: &str) -> Vec<(u64, u64)> {
    let wanted = events.iter().filter(|one| one["properties"]["application"]["run"] == run);
    let number = |event: &Value, name: &str| event[name].as_u64().expect("a number");
    let mut places: Vec<_> =
        wanted.map(|event| (number(event, "partition"), number(event, "offset"))).collect();
    places.sort_unstable();
    places
}

#[test]
fn nothing_is_lost_or_doubled_over_a_restart() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let mut hub = Up::start(data, &[]);
    let mut all = Monitor::start(data, &["--from-start"]);
    let mut group = Monitor::start(data, &["--group", "g", "--from-start"]);
    let mut live = Monitor::start(data, &[]);
    // A live one says nothing of itself: it is open when it shows the first message.
    good(&ask(data, &["device", "create", "-d", "first"]));
    let deadline = Instant::now() + DEADLINE;
    while live.events.is_empty() {
        assert!(Instant::now() < deadline, "the live monitor shows nothing");
        let arguments = ["-d", "first", "--count", "1", "--rate", "0"];
        good(&simulate(data, &arguments).output().expect("it runs"));
        if let Ok(line) = live.stdout.recv_timeout(Duration::from_millis(200)) {
            live.events.push(event(&line));
        }
    }
    for (run, asked) in [("killed", false), ("stopped", true)] {
        // Several partitions, of some of which nothing was printed before the hub goes.
        let property = format!("run={run}");
        let arguments = ["-d", run, "--devices", "6", "--count", "300", "--rate", "200"];
        let mut sender = simulate(data, &[&arguments[..], &["--props", &property]].concat());
        let sender = sender.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
        all.read(all.events.len() + 30);
        // A group is committed by the hub, also behind what is still on its way: a partition that
        // showed something is resumed behind that.
        while group.devices(run) < 6 {
            group.read(group.events.len() + 1);
        }
        if asked {
            assert_eq!(hub.stop(), Some(0));
        } else {
            drop(hub);
        }
        all.says("the hub has gone");
        live.says("the hub has gone");
        group.says("the hub has gone");
        hub = Up::start(data, &[]);
        let sent = sender.wait_with_output().expect("it ends");
        assert!(good(&sent).starts_with("300 messages of 6 devices acknowledged"), "{sent:?}");

        let truth = stored(data, &[]);
        let mut numbers: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for event in truth.iter().filter(|one| one["properties"]["application"]["run"] == run) {
            let device = event["origin"].as_str().expect("a device").to_owned();
            let number = event["payload"]["number"].as_u64().expect("a number");
            numbers.entry(device).or_default().push(number);
        }
        assert_eq!(numbers.len(), 6);
        for (device, mut numbers) in numbers {
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers, (0..50).collect::<Vec<_>>(), "{device}: each was acknowledged");
        }
        let truth = places(&truth, run);
        for (name, monitor) in [("all", &mut all), ("live", &mut live), ("group", &mut group)] {
            while monitor.places(run).len() < truth.len() {
                monitor.read(monitor.events.len() + 1);
            }
            assert_eq!(monitor.places(run), truth, "{name}, {run}");
        }
    }
    // Nothing more comes of either.
    let arguments = ["-d", "first", "--count", "1", "--rate", "0", "--props", "run=last"];
    good(&simulate(data, &arguments).output().expect("it runs"));
    for monitor in [&mut all, &mut live, &mut group] {
        monitor.read(monitor.events.len() + 1);
        assert_eq!(monitor.places("last").len(), 1);
    }
}

#[test]
fn a_monitor_begins_where_it_is_told() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let hub = Up::start(data, &[]);
    let send = |count: &str| {
        let arguments = ["-d", "d", "--devices", "2", "--count", count, "--rate", "0"];
        good(&simulate(data, &arguments).output().expect("it runs"));
    };
    send("20");
    let monitor = |more: &[&str]| -> Vec<Value> {
        let arguments = ["events", "monitor", "--timeout", "1", "--json"];
        let text = good(&ask(data, &[&arguments, more].concat()));
        text.lines().map(event).collect()
    };
    let one = monitor(&["--from-start", "-d", "d-1"]);
    assert_eq!(one.len(), 10);
    let partition = one[0]["partition"].as_u64().expect("a number");
    let here = |events: &[Value]| -> Vec<u64> {
        let offset = |event: &Value| event["offset"].as_u64().expect("a number");
        assert!(events.iter().all(|event| event["partition"] == partition));
        events.iter().map(offset).collect()
    };
    let offsets = here(&one);
    let from = |offset: u64| format!("{partition}:{offset}");
    for (offset, want) in
        [(offsets[4], &offsets[4..]), (offsets[0], &offsets[..]), (offsets[9] + 1, &[])]
    {
        let got = monitor(&["--from-offset", &from(offset), "-d", "d-1"]);
        assert_eq!(here(&got), want, "from {offset}");
    }
    // Without a device, it is the partition that is read.
    let zero = here(&monitor(&["--from-offset", &from(0)]));
    assert!(offsets.iter().all(|offset| zero.contains(offset)), "{zero:?}");
    let time = one[0]["enqueued"].as_str().expect("a time");
    assert_eq!(monitor(&["--from", time, "-d", "d-1"]).len(), 10);
    assert!(monitor(&["--from", "2100-01-01T00:00:00Z"]).is_empty());
    assert!(monitor(&[]).is_empty());

    assert_eq!(monitor(&["--group", "g", "--from-start"]).len(), 20);
    send("4");
    assert_eq!(monitor(&["--group", "g", "--from-start"]).len(), 4);
    assert_eq!(monitor(&["--group", "h", "--from-start"]).len(), 24);

    for wrong in [&["--from-offset", "1"][..], &["--from-offset", "a:b"], &["--from", "yesterday"]]
    {
        bad(&ask(data, &[&["events", "monitor"], wrong].concat()), 2, wrong[0]);
    }
    bad(&ask(data, &["events", "monitor", "--group", "a/b"]), 1, "ArgumentInvalid");

    // A hub that goes and does not come back ends it when its time is over, and not with 0.
    let mut waiting = Monitor::start(data, &["--from-start", "--timeout", "2"]);
    waiting.read(24);
    assert_eq!(hub.stop(), Some(0));
    waiting.says("the hub has gone");
    assert_eq!(waiting.child.wait().expect("it ends").code(), Some(3));
    bad(&ask(data, &["events", "monitor"]), 3, "dunlin up");
}

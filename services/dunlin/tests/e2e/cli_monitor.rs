//! `dunlin events monitor`: where it begins, that it goes on over a restart of the hub, and that a
//! group goes on over the death of its monitor.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use dunlin::test_hub::TestHub;
use dunlin_auth::Key;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader as AsyncReader};

use crate::cli::{Up, ask, bad, dunlin, good};
use crate::cli_simulate::{simulate, stored};
use crate::events::{append, positions};
use crate::process;
use crate::raw::within;

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
        group.read(group.events.len() + 30);
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
    bad(&ask(data, &["events", "monitor", "--from-offset", "4:0"]), 1, "this hub has 4, 0 to 3");

    // A hub that goes and does not come back ends it when its time is over, and not with 0.
    let mut waiting = Monitor::start(data, &["--from-start", "--timeout", "2"]);
    waiting.read(24);
    assert_eq!(hub.stop(), Some(0));
    waiting.says("the hub has gone");
    assert_eq!(waiting.child.wait().expect("it ends").code(), Some(3));
    bad(&ask(data, &["events", "monitor"]), 3, "dunlin up");
}

#[test]
fn a_timeout_ends_it_whatever_the_hub_does() {
    // The kernel takes the connection, and nobody says anything on it.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = format!("localhost:{}", silent.local_addr().expect("an address").port());
    let key = Key::generate().to_base64();
    let login = format!("HostName={host};SharedAccessKeyName=service;SharedAccessKey={key}");
    let asked = dunlin(&["events", "monitor", "--timeout", "1", "--login", &login]).output();
    bad(&asked.expect("it runs"), 3, "--timeout");
}

/// Events that it is not asked to print do not keep it.
#[test]
fn a_busy_hub_does_not_hold_a_monitor_of_a_quiet_partition() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path();
    let _hub = Up::start(data, &[]);
    good(&ask(data, &["device", "create", "-d", "d"]));
    good(&simulate(data, &["-d", "d", "--count", "1", "--rate", "0"]).output().expect("it runs"));
    let busy = stored(data, &[])[0]["partition"].as_u64().expect("a number");
    // For far longer than the monitor may take.
    let mut sender = simulate(data, &["-d", "d", "--count", "3000", "--rate", "100"]);
    let mut sender = sender.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let mut live = Monitor::start(data, &["--from-start"]);
    live.read(10);
    let quiet = format!("{}:0", (busy + 1) % 4);
    let shown = ask(data, &["events", "monitor", "--from-offset", &quiet, "--timeout", "1"]);
    let ended = sender.try_wait().expect("a child");
    sender.kill().expect("killed");
    sender.wait().expect("it ends");
    assert_eq!(good(&shown), "");
    assert!(ended.is_none(), "the monitor ended only after the sender");
}

/// Of a group, on a hub whose log can be looked into.
fn group_monitor(hub: &TestHub, more: &[&str]) -> tokio::process::Command {
    let ca = hub.folder().join("ca-of-the-test.pem");
    std::fs::write(&ca, hub.ca_pem()).expect("written");
    let mut command = process::dunlin();
    command.args(["events", "monitor", "--json", "--group", "g"]).args(more);
    command.arg("--login").arg(hub.owner_connection_string().to_string()).arg("--ca").arg(ca);
    command.kill_on_drop(true);
    command
}

/// Partition and offset of a line.
fn place(line: &str) -> (u32, u64) {
    let event = event(line);
    let number = |name: &str| event[name].as_u64().expect("a number");
    (u32::try_from(number("partition")).expect("a partition"), number("offset"))
}

/// A monitor whose reader is slow, and then does not read at all, is sent that signal in the midst.
async fn a_group_outlives_its_monitor(signal: &str, code: Option<i32>) {
    const EVENTS: usize = 2_000;
    let hub = TestHub::all_in_one().await;
    let body = format!("\"{}\"", "x".repeat(1_000));
    for number in 0..EVENTS {
        append(&hub, &format!("device-{}", number % 8), &body);
    }
    let mut child =
        group_monitor(&hub, &["--from-start"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdout = AsyncReader::new(child.stdout.take().expect("piped"));
    let mut printed = BTreeSet::new();
    let mut line = String::new();
    // Until the group has been moved on for the first time.
    while positions(&hub, "g").await.values().sum::<u64>() == 0 {
        line.clear();
        within("a line", stdout.read_line(&mut line)).await.expect("text");
        printed.insert(place(&line));
        assert!(printed.len() < EVENTS, "all was printed, and nothing committed");
        // sleep: between two looks at the group, whose number the events bound.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = child.id().expect("running").to_string();
    let kill = ["-c", &format!("kill -{signal} $0"), &pid];
    assert!(std::process::Command::new("sh").args(kill).status().expect("kill").success());
    assert_eq!(within("its end", child.wait()).await.expect("a status").code(), code);
    // What it had written is with its reader, but for a line that it did not finish.
    loop {
        line.clear();
        stdout.read_line(&mut line).await.expect("text");
        if !line.ends_with('\n') {
            break;
        }
        printed.insert(place(&line));
    }
    assert!(printed.len() < EVENTS, "it was not in the midst of it");
    for (partition, next) in positions(&hub, "g").await {
        for offset in 0..next {
            assert!(printed.contains(&(partition, offset)), "{partition}:{offset} was committed");
        }
    }
    let rest = group_monitor(&hub, &["--timeout", "2"]).output();
    let rest = good(&within("the rest", rest).await.expect("it runs"));
    assert!(rest.lines().count() < EVENTS, "the group did not go on where it was");
    printed.extend(rest.lines().map(place));
    assert_eq!(printed.len(), EVENTS);
    assert_eq!(positions(&hub, "g").await.values().sum::<u64>(), EVENTS as u64);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_monitor_loses_nothing_of_its_group() {
    a_group_outlives_its_monitor("KILL", None).await;
}

/// It ends though nobody takes what it prints, and says how far it came.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_monitor_ends_when_it_is_asked_to() {
    a_group_outlives_its_monitor("TERM", Some(0)).await;
}

//! A server process on this machine: started, waited for, and ended.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::{output, run_shown, succeeds};

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it is ready.
const LOOK: Duration = Duration::from_micros(500);

/// A server process; killed when dropped.
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
    /// When it was started.
    pub since: Instant,
}

impl Server {
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let cannot = |error| format!("cannot write {}: {error}", log.display());
        let file = fs::File::create(log).map_err(cannot)?;
        let copy = file.try_clone().map_err(cannot)?;
        Self::spawn(name, command.stdout(copy).stderr(file), log)
    }

    /// With our standard output for its own; only its errors go into the log.
    pub fn start_printing(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let cannot = |error| format!("cannot write {}: {error}", log.display());
        Self::spawn(name, command.stderr(fs::File::create(log).map_err(cannot)?), log)
    }

    fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let since = Instant::now();
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), since })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so; how long that took from the start of the process.
    pub fn ready(&mut self, mut ready: impl FnMut() -> bool) -> Result<Duration> {
        while !ready() {
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            if self.since.elapsed() > PATIENCE {
                let words = self.last_words();
                return Err(format!("{} is not ready after {PATIENCE:?}{words}", self.name));
            }
            thread::sleep(LOOK);
        }
        Ok(self.since.elapsed())
    }

    /// What to say if it has ended.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("{} ended: {status}{}", self.name, self.last_words()))
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(10).collect();
        lines.iter().rev().map(|line| format!("\n    {line}")).collect()
    }

    pub fn ask_to_end(&self) {
        succeeds(Command::new("sh").args(["-c", "kill $0", &self.pid().to_string()]));
    }

    /// Asks it to end and waits for that.
    pub fn stop(self) -> Result<()> {
        self.ask_to_end();
        self.wait()
    }

    /// Waits for the end that it was asked for.
    pub fn wait(mut self) -> Result<()> {
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(LOOK),
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("{} ended badly: {status}", self.name)),
                Err(error) => return Err(format!("cannot wait for {}: {error}", self.name)),
            }
        }
        Err(format!("{} does not end when asked to", self.name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended, and been waited for, long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The beginning of what a local port answers.
pub fn ask(port: u16, question: &[u8]) -> Option<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(question).ok()?;
    let mut answer = vec![0; 64];
    let read = stream.read(&mut answer).ok()?;
    answer.truncate(read);
    Some(answer)
}

/// Whether a hub's admin port says that it is ready.
pub fn is_ready(port: u16) -> bool {
    ask(port, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

/// Installs a Debian package unless what it brings is `here`; its service is not started.
pub fn install(what: &str, here: impl Fn() -> bool, package: &str) -> Result<()> {
    if here() {
        return Ok(());
    }
    if output(Command::new("id").arg("-u"))? != "0" {
        return Err(format!("{what} is missing; run: sudo apt-get install {package}"));
    }
    // Runlevel 1 keeps the package from starting a service that nobody asked for.
    let script = format!(
        "apt-get -q update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
         apt-get -q install -y --no-install-recommends {package}"
    );
    run_shown(Command::new("sh").args(["-c", &script]))?;
    if here() { Ok(()) } else { Err(format!("{what} is still missing after installing {package}")) }
}

/// Whether there is such a program; what it answers does not matter (`mosquitto -h` ends with 3).
pub fn runs(program: &str, arg: &str) -> bool {
    let mut probe = Command::new(program);
    probe.arg(arg).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A port of 127.0.0.1 that is free now and is not handed out twice. Below the ephemeral ports: a
/// client that polls one of those may be given the very same as its own, and so take it.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    // Two runs at the same time start looking at different places.
    let salt = (std::process::id() % u32::from(COUNT)) as u16;
    let turns = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).take(1_000);
    turns
        .map(|turn| FIRST + (salt + turn) % COUNT)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| "no port of 127.0.0.1 is free".into())
}

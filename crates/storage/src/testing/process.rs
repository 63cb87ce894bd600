//! A server process of one test.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};

/// It ends with the test.
pub(super) struct Process(Child);

impl Process {
    pub(super) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a server starts"))
    }

    /// Waits for its end after it was told to.
    pub(super) fn ends(&mut self) {
        self.0.wait().expect("gone");
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_some()
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.ends();
    }

    pub(super) fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill");
        assert!(sent.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Below the ephemeral ports: a client that looks for a server that is away may be given the very
/// same as its own, and so take it.
pub fn free_port() -> u16 {
    let draw = || fastrand::u16(20_000..32_000);
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(draw).take(1_000).find(free).expect("a port")
}

//! What /proc tells of a process: memory and processor time. Linux only.

mod watch;

use std::fs;
use std::ops::{AddAssign, Sub};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use watch::{Look, Watch};

/// The kernel's USER_HZ, which `/proc/PID/stat` counts in: 100 on every Linux architecture we run.
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory of a process and of the kernel, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub rss: u64,
    /// Of it: heap and stacks.
    pub anonymous: u64,
    /// Of it: the program itself and mapped files.
    pub file: u64,
    /// Private and dirty, as `smaps_rollup` counts it.
    pub private_dirty: u64,
    /// Kernel memory in slabs, of the whole machine: sockets are in it.
    pub slab: u64,
    /// Pages held by TCP buffers, of the whole machine.
    pub tcp_buffers: u64,
}

impl Memory {
    /// Of two processes together; what is the machine's counts once.
    fn beside(self, other: Self) -> Self {
        Self {
            rss: self.rss + other.rss,
            anonymous: self.anonymous + other.anonymous,
            file: self.file + other.file,
            private_dirty: self.private_dirty + other.private_dirty,
            slab: other.slab,
            tcp_buffers: other.tcp_buffers,
        }
    }
}

pub fn memory(pid: u32) -> Result<Memory> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let meminfo = read("/proc/meminfo")?;
    // Absent on a kernel without it: counts as nothing rather than failing the run.
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    Ok(Memory {
        rss: field(&status, "VmRSS:").context("no VmRSS: has the process ended?")?,
        anonymous: field(&status, "RssAnon:").unwrap_or(0),
        file: field(&status, "RssFile:").unwrap_or(0),
        private_dirty: field(&rollup, "Private_Dirty:").unwrap_or(0),
        slab: field(&meminfo, "Slab:").context("no Slab in /proc/meminfo")?,
        tcp_buffers: tcp_pages(&sockets).unwrap_or(0) * 4,
    })
}

/// Seconds of processor time a process has used, user and system.
pub fn cpu(pid: u32) -> Result<Cpu> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    cpu_of(&stat).with_context(|| format!("/proc/{pid}/stat is not as expected"))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
    }
}

impl AddAssign for Cpu {
    fn add_assign(&mut self, more: Self) {
        self.user += more.user;
        self.system += more.system;
    }
}

/// What this process, one of the simulator's, has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Own {
    pub pid: u32,
    pub cpu: Cpu,
    /// KiB.
    pub rss: u64,
    /// Of it: heap and stacks.
    pub anonymous: u64,
}

pub fn own() -> Result<Own> {
    let pid = std::process::id();
    let status = read(&format!("/proc/{pid}/status"))?;
    let kib = |name| field(&status, name).with_context(|| format!("no {name} in /proc"));
    Ok(Own { pid, cpu: cpu(pid)?, rss: kib("VmRSS:")?, anonymous: kib("RssAnon:")? })
}

/// Seconds of processor time that the whole machine has used, whoever did.
pub fn machine() -> Result<f64> {
    busy(&read("/proc/stat")?).context("/proc/stat is not as expected")
}

/// Voluntary and involuntary context switches of all threads: what waking up costs.
pub fn context_switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while we look.
        let Ok(status) = fs::read_to_string(entry?.path().join("status")) else { continue };
        sum += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        sum += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
    }
    Ok(sum)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// The number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Of the line `cpu`: all but idle and waiting, and guests, whose time is in that of users.
fn busy(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Option<Vec<f64>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
    let ticks = ticks.filter(|ticks| ticks.len() >= 8)?;
    let sum: f64 = [0, 1, 2, 5, 6, 7].iter().map(|at: &usize| ticks[*at]).sum();
    Some(sum / TICKS_PER_SECOND)
}

fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

/// The name in brackets may hold anything, so fields are counted from its end.
fn cpu_of(stat: &str) -> Option<Cpu> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    Some(Cpu { user: seconds()?, system: seconds()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let status = "Name:\tx\nVmRSS:\t    1234 kB\nRssAnon:\t1000 kB\n";
        assert_eq!(field(status, "VmRSS:"), Some(1234));
        assert_eq!(field(status, "VmSwap:"), None);
        let stat = "7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_of(stat), Some(Cpu { user: 2.5, system: 0.5 }));
        assert_eq!(busy("cpu  100 20 30 9999 9999 1 2 47 5 5\ncpu0 1\n"), Some(2.0));
        assert_eq!(busy("cpu  1 2 3\n"), None);
        assert_eq!(
            tcp_pages("sockets: used 1\nTCP: inuse 5 orphan 0 tw 0 alloc 9 mem 3\n"),
            Some(3)
        );
    }

    #[test]
    fn this_process_is_measured() -> Result<()> {
        let own = own()?;
        assert!(own.rss >= own.anonymous && own.anonymous > 0);
        assert!(memory(own.pid)?.rss > 0);
        assert!(machine()? >= own.cpu.total());
        Ok(())
    }
}

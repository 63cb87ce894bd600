//! Watches the processes of a server, each by its PID or all of a name: what they use of a processor
//! and of memory. A process may end, and one of the same name come in its place.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Result, bail};

use super::{Cpu, Memory, context_switches, cpu, memory};

/// The kernel keeps so many characters of a process's name.
const NAME: usize = 15;

#[derive(Debug)]
pub struct Watch {
    targets: Vec<Target>,
}

/// What one `--watch` names.
#[derive(Debug)]
struct Target {
    label: String,
    wanted: Wanted,
    /// Those that ran at the last look, with what each had used.
    running: BTreeMap<u32, (Cpu, u64)>,
    /// What all have used since the first look.
    used: Cpu,
    switches: u64,
}

#[derive(Debug)]
enum Wanted {
    Pid(u32),
    Name(String),
}

/// What is used at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Since the first look.
    pub cpu: Cpu,
    /// None: nothing of it runs.
    pub memory: Option<Memory>,
}

/// Of all that is watched.
#[derive(Debug, Default)]
pub struct Look {
    pub each: Vec<Usage>,
    /// Voluntary and involuntary context switches since the first look.
    pub switches: u64,
}

impl Look {
    pub fn cpu(&self) -> Cpu {
        let mut sum = Cpu::default();
        self.each.iter().for_each(|usage| sum += usage.cpu);
        sum
    }

    /// None: nothing runs.
    pub fn memory(&self) -> Option<Memory> {
        self.each.iter().filter_map(|usage| usage.memory).reduce(Memory::beside)
    }
}

impl Watch {
    /// Each of `targets` is a PID or a name; something of it must run.
    pub fn new(targets: &[String]) -> Result<Self> {
        let targets = targets.iter().map(|target| Target::new(target)).collect::<Result<_>>()?;
        Ok(Self { targets })
    }

    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().map(|target| target.label.as_str())
    }

    pub fn look(&mut self) -> Look {
        let mut look = Look::default();
        for target in &mut self.targets {
            look.each.push(target.look());
            look.switches += target.switches;
        }
        look
    }
}

impl Target {
    fn new(text: &str) -> Result<Self> {
        let (label, wanted) = match text.parse() {
            Ok(pid) => {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                (format!("{} ({pid})", name.trim_end()), Wanted::Pid(pid))
            }
            Err(_) => (text.to_owned(), Wanted::Name(text.to_owned())),
        };
        let (running, used) = Default::default();
        let mut target = Self { label, wanted, running, used, switches: 0 };
        // What they used before does not count.
        for pid in target.pids() {
            if let Ok(cpu) = cpu(pid) {
                target.running.insert(pid, (cpu, context_switches(pid).unwrap_or(0)));
            }
        }
        if target.running.is_empty() {
            bail!("no process {text} on this machine: --watch takes a PID or a name of `ps -e`");
        }
        Ok(target)
    }

    fn pids(&self) -> Vec<u32> {
        let name = match &self.wanted {
            Wanted::Pid(pid) => return vec![*pid],
            Wanted::Name(name) => &name[..name.floor_char_boundary(NAME)],
        };
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let is_it = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|comm| comm.trim_end() == name)
        };
        pids.filter(is_it).collect()
    }

    fn look(&mut self) -> Usage {
        let mut now = BTreeMap::new();
        let mut sum: Option<Memory> = None;
        for pid in self.pids() {
            // It may end while we look.
            let (Ok(cpu), Ok(memory)) = (cpu(pid), memory(pid)) else { continue };
            let (before, switched) = self.running.get(&pid).copied().unwrap_or_default();
            self.used += cpu - before;
            // A thread that ends takes its count with it.
            let switches = context_switches(pid).unwrap_or(switched);
            self.switches += switches.saturating_sub(switched);
            now.insert(pid, (cpu, switches));
            sum = Some(sum.map_or(memory, |sum| sum.beside(memory)));
        }
        self.running = now;
        Usage { cpu: self.used, memory: sum }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};

    use anyhow::Context;

    use super::*;

    #[test]
    fn a_process_is_found_by_pid_and_by_name() -> Result<()> {
        let own = std::process::id();
        let comm = fs::read_to_string(format!("/proc/{own}/comm"))?;
        let name = comm.trim_end();
        let mut watch = Watch::new(&[own.to_string(), name.to_owned()])?;
        assert_eq!(watch.labels().collect::<Vec<_>>(), [&format!("{name} ({own})"), name]);
        let first = watch.look();
        assert!(first.each.iter().all(|usage| usage.memory.is_some_and(|memory| memory.rss > 0)));
        let until = cpu(own)?.total() + 0.02;
        while cpu(own)?.total() < until {
            std::hint::spin_loop();
        }
        let second = watch.look();
        for (usage, before) in second.each.iter().zip(&first.each) {
            assert!(usage.cpu.total() >= before.cpu.total() + 0.019, "{usage:?} {before:?}");
        }
        assert!(second.cpu().total() >= 0.038, "both count");
        Ok(())
    }

    /// A process of a name that no other has; it ends when its input does.
    fn start(folder: &std::path::Path) -> Result<Child> {
        let program = folder.join(format!("cat{}", std::process::id()));
        if !program.exists() {
            fs::copy("/bin/cat", &program)?;
        }
        let mut command = Command::new(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        // What answers has the name of its program.
        let (input, output) =
            child.stdin.as_mut().zip(child.stdout.as_mut()).context("no pipes")?;
        input.write_all(b"x")?;
        output.read_exact(&mut [0])?;
        Ok(child)
    }

    #[test]
    fn a_process_that_ended_is_a_gap_and_one_in_its_place_is_followed() -> Result<()> {
        let folder = std::env::temp_dir();
        let mut child = start(&folder)?;
        let name = format!("cat{}", std::process::id());
        let mut watch = Watch::new(&[child.id().to_string(), name.clone()])?;
        assert!(watch.look().each.iter().all(|usage| usage.memory.is_some()));
        drop(child.stdin.take());
        child.wait()?;
        assert_eq!(watch.look().memory(), None);
        let gone = Watch::new(&[child.id().to_string()]).expect_err("nothing runs");
        assert!(gone.to_string().contains("--watch"), "{gone}");

        let mut next = start(&folder)?;
        let look = watch.look();
        assert_eq!(look.each[0].memory, None);
        assert!(look.each[1].memory.is_some());
        drop(next.stdin.take());
        next.wait()?;
        fs::remove_file(folder.join(name))?;
        Ok(())
    }
}

//! What ran: for the head of a report. The engine fills in what it did, the rest is looked up.

use std::fs;

use serde::Serialize;

/// What ran.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    /// `hub` or `broker`.
    pub target: &'static str,
    /// Where it is: a host and, if not the usual one, its port.
    pub server: String,
    /// Of the scenario.
    pub name: String,
    /// What devices and back ends do, a line each.
    pub groups: Vec<String>,
    pub devices: usize,
    /// Processes of the simulator.
    pub workers: usize,
    pub tls: bool,
}

/// Where and how it ran.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// To repeat it.
    pub command: String,
    pub machine: String,
    pub processors: usize,
    pub version: &'static str,
    /// RFC 3339, UTC.
    pub started: String,
}

impl Place {
    pub fn here() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            command: command(std::env::args()),
            machine: machine(
                &read("/proc/cpuinfo"),
                &read("/proc/meminfo"),
                &read("/proc/sys/kernel/osrelease"),
                processors,
            ),
            processors,
            version: env!("CARGO_PKG_VERSION"),
            started: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// The command line as a shell takes it, without the keys of connection strings.
fn command(mut words: impl Iterator<Item = String>) -> String {
    let program = words.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    let words = words.map(|word| quoted(&without_key(&word)));
    std::iter::once(name).chain(words).collect::<Vec<_>>().join(" ")
}

fn without_key(word: &str) -> String {
    let parts = word.split(';').map(|part| match part.rfind("SharedAccessKey=") {
        Some(at) => format!("{}SharedAccessKey=…", &part[..at]),
        None => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join(";")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn machine(cpuinfo: &str, meminfo: &str, release: &str, processors: usize) -> String {
    let after = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        line.map(|line| line.trim_start_matches([' ', '\t', ':']).to_owned())
    };
    let model = after(cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let kib = after(meminfo, "MemTotal").and_then(|line| {
        line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok())
    });
    let memory = kib.map(|kib| format!(", {:.0} GiB", kib / f64::from(1 << 20)));
    let memory = memory.unwrap_or_default();
    format!("{processors} × {model}{memory}, Linux {}", release.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted_and_holds_no_key() {
        let login = "HostName=h;SharedAccessKeyName=o;SharedAccessKey=c2VjcmV0=";
        let flag = format!("--login={login}");
        let words = ["/usr/bin/dunlin-loadtest", "run", "--login", login, &flag, "it's", ""];
        let command = command(words.into_iter().map(str::to_owned));
        assert!(!command.contains("c2Vj"), "{command}");
        assert_eq!(
            command,
            "dunlin-loadtest run --login 'HostName=h;SharedAccessKeyName=o;SharedAccessKey=…' \
             '--login=HostName=h;SharedAccessKeyName=o;SharedAccessKey=…' 'it'\\''s' ''"
        );
    }

    #[test]
    fn a_machine_is_described() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n";
        let told = machine(cpuinfo, "MemTotal:       24683520 kB\n", "6.1.0\n", 2);
        assert_eq!(told, "2 × Some CPU @ 3 GHz, 24 GiB, Linux 6.1.0");
        assert!(machine("", "", "", 1).starts_with("1 × "));
    }
}

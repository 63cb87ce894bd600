//! Runs children, passes their output through while reading it, and leaves none of them behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::Result;

/// A child and every child of its carries this variable, with a value of its own.
const MARK: &str = "DUNLIN_XTASK_RUN";

fn next_mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs `command` to its end, its output shown as it comes and handed to `on_line` line by line.
/// Returns whether it succeeded. Whatever it started and left running is ended.
pub fn run(command: &mut Command, on_line: &mut (dyn FnMut(&str) + Send)) -> Result<bool> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mark = next_mark();
    command.env(MARK, &mark);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
    let on_line = Mutex::new(on_line);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let status = thread::scope(|scope| {
        let readers = [
            scope.spawn(|| pass_through(stdout, std::io::stdout(), &on_line)),
            scope.spawn(|| pass_through(stderr, std::io::stderr(), &on_line)),
        ];
        let status = child.wait();
        // A left-over child may hold the pipes open: it is ended before they are waited for. One
        // that is just becoming another program has no environment for a moment, so this is looked
        // at until nobody holds a pipe any more.
        end_left_over(&mark);
        while !readers.iter().all(thread::ScopedJoinHandle::is_finished) {
            // sleep: between two looks; what is waited for is the end of other processes.
            thread::sleep(Duration::from_millis(20));
            end_left_over(&mark);
        }
        status
    });
    let status = status.map_err(|error| format!("cannot wait for {name}: {error}"))?;
    Ok(status.success())
}

/// As [`run`], beside something else that is shown: the output goes into `log`.
pub fn run_aside(command: &mut Command, log: &Path) -> Result<bool> {
    let name = command.get_program().to_string_lossy().into_owned();
    let cannot = |error| format!("cannot write {}: {error}", log.display());
    let file = fs::File::create(log).map_err(cannot)?;
    let copy = file.try_clone().map_err(cannot)?;
    let mark = next_mark();
    command.env(MARK, &mark).stdin(Stdio::null()).stdout(copy).stderr(file);
    let status = command.status().map_err(|error| format!("cannot start {name}: {error}"))?;
    end_left_over(&mark);
    Ok(status.success())
}

/// Runs `command` with its output as ours, for what has nothing to be read from.
pub fn run_shown(command: &mut Command) -> Result<bool> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mark = next_mark();
    command.env(MARK, &mark).stdin(Stdio::null());
    let status = command.status().map_err(|error| format!("cannot start {name}: {error}"))?;
    end_left_over(&mark);
    Ok(status.success())
}

/// Whether `command` can be run and succeeds; its output is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Standard output of `command`, which must succeed.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn pass_through(
    from: Option<impl Read>,
    mut to: impl Write,
    on_line: &Mutex<&mut (dyn FnMut(&str) + Send)>,
) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        // A reader of ours that went away must not end the run.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        let text = String::from_utf8_lossy(&line);
        if let Ok(mut on_line) = on_line.lock() {
            on_line(text.trim_end_matches(['\r', '\n']));
        }
        line.clear();
    }
}

/// Ends processes with this mark, whose parents did not. Linux only: it reads /proc.
fn end_left_over(mark: &str) {
    // A process may start another while it is being ended: look again until none is left.
    for _ in 0..10 {
        let left = marked(mark);
        if left.is_empty() {
            return;
        }
        eprintln!("xtask: ending left-over processes {}", left.join(" "));
        succeeds(Command::new("sh").arg("-c").arg(format!("kill -9 {}", left.join(" "))));
    }
}

/// Ids of the processes that carry this mark in their environment. Zombies have none.
fn marked(mark: &str) -> Vec<String> {
    let mark = format!("{MARK}={mark}");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let ids = ids.filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()));
    ids.filter(|id| {
        fs::read(format!("/proc/{id}/environ")).is_ok_and(|environ| {
            environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_both_streams_is_read_and_the_status_told() {
        let mut lines = Vec::new();
        let script = "echo out; echo err >&2; exit 3";
        let success =
            run(Command::new("sh").args(["-c", script]), &mut |line| lines.push(line.to_owned()));
        lines.sort();
        assert_eq!(success, Ok(false));
        assert_eq!(lines, ["err", "out"]);
    }

    #[test]
    fn a_child_left_behind_is_ended() {
        let mut started = String::new();
        // It would hold our pipe open for a minute.
        let script = "sleep 60 & echo $!";
        let success =
            run(Command::new("sh").args(["-c", script]), &mut |line| started = line.to_owned());
        assert_eq!(success, Ok(true));
        let environ = fs::read(format!("/proc/{started}/environ")).unwrap_or_default();
        assert!(!started.is_empty() && environ.is_empty(), "{started} still runs");
    }
}

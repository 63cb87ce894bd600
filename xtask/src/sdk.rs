//! The step `sdk`: pytest in tests/sdk, in namespaces of its own: once on `dunlin up`, and beside
//! that once on a cluster.
//!
//! The SDKs fix the ports 8883 and 443, and connect to the host name of the connection string. So
//! pytest, the hub and every client run where all ports are free and the hub's names mean loopback:
//! in a new network namespace, with an /etc/hosts of its own, in a new process namespace, which
//! ends everything in it when pytest ends. `unshare` makes all three and leaves nothing on the
//! machine, which `ip netns` (it names a namespace) would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::process::{self, run_shown, succeeds};
use crate::servers::VARIABLES;
use crate::suite::cargo;
use crate::{Result, workspace};

/// `hub.test` is the hub of a session, `hub2.test` a second one, `other.test` is no name of any hub.
const HOSTS: &str = "127.0.0.1 localhost hub.test other.test\n127.0.0.2 hub2.test\n";

const NAMESPACES: [&str; 6] =
    ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Inside: bring loopback up, mount the hosts file, run the rest of the arguments.
const INSIDE: &str = r#"set -e
ip link set lo up
mount --bind "$1" /etc/hosts
shift
"$@"
"#;

/// Runs them. `built`: the binary was built by the step before this one. With arguments for pytest
/// it is one run, in the shape that they name.
pub fn run(built: bool, args: &[String], on_line: &mut (dyn FnMut(&str) + Send)) -> Result<bool> {
    let binary = binary(built)?;
    if !args.is_empty() {
        return process::run(&mut command(&binary, "one", args)?, on_line);
    }
    let shaped = |shape: &str| command(&binary, shape, &["--shape".to_owned(), shape.to_owned()]);
    let (mut up, mut cluster) = (shaped("up")?, shaped("cluster")?);
    let log = workspace::sdk_home()?.join("cluster.log");
    // They wait for their clients most of the time.
    let (first, second) = thread::scope(|scope| {
        let second = scope.spawn(|| process::run_aside(&mut cluster, &log));
        (process::run(&mut up, on_line), second.join())
    });
    let second = second.map_err(|_| "the run on a cluster panicked")?;
    let text = fs::read_to_string(&log)
        .map_err(|error| format!("cannot read {}: {error}", log.display()))?;
    println!("==> sdk, on a cluster\n{text}");
    text.lines().for_each(on_line);
    Ok(first? & second?)
}

/// pytest over tests/sdk.
fn command(binary: &Path, name: &str, args: &[String]) -> Result<Command> {
    let home = workspace::sdk_home()?;
    let hosts = home.join("hosts");
    fs::write(&hosts, HOSTS)
        .map_err(|error| format!("cannot write {}: {error}", hosts.display()))?;
    let tests = workspace::root()?.join("tests/sdk");
    let mut command = namespaced()?;
    command.args(["sh", "-c", INSIDE, "sh"]).arg(&hosts);
    command.arg(home.join("venv/bin/python")).args(["-m", "pytest", "--basetemp"]);
    command.arg(home.join(format!("tmp-{name}"))).args(args).current_dir(&tests);
    command
        .env("DUNLIN_BIN", binary)
        .env("DUNLIN_XTASK", this_program()?)
        .env("NODE_PATH", home.join("node/node_modules"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    // What the person who calls has set up for a hub of their own is not meant.
    for name in ["DUNLIN_LOGIN", "DUNLIN_CA", "PYTEST_ADDOPTS", "NODE_EXTRA_CA_CERTS"] {
        command.env_remove(name);
    }
    // No server outside is reached from in there.
    for name in VARIABLES {
        command.env_remove(name);
    }
    Ok(command)
}

/// Where this program is. It may have been built anew since it was started, by the step `cargo`: the
/// system then calls what runs deleted, and the new one is the same.
fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe();
    let path = path.map_err(|error| format!("cannot find this program: {error}"))?;
    Ok(match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => path.into(),
        None => path,
    })
}

/// DUNLIN_BIN, or the one that tests use.
pub fn binary(built: bool) -> Result<PathBuf> {
    let path = match std::env::var_os("DUNLIN_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            // The same build as the step `cargo` makes, so that nothing is compiled twice.
            if !built && !run_shown(&mut cargo(&["test", "--workspace", "--no-run", "--quiet"])?)? {
                return Err("the workspace does not build".into());
            }
            workspace::target()?.join("debug/dunlin")
        }
    };
    fs::canonicalize(&path).map_err(|error| format!("no hub at {}: {error}", path.display()))
}

/// `unshare` with every namespace, as root or, where the kernel lets users do so, as root of a user namespace.
fn namespaced() -> Result<Command> {
    for user in [&[][..], &["--map-root-user"][..]] {
        // Ended with this program, however that ends.
        let make = || {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "unshare"]).args(user).args(NAMESPACES).arg("--");
            command
        };
        if succeeds(
            make().args(["sh", "-c", INSIDE, "sh"]).arg(Path::new("/etc/hosts")).arg("true"),
        ) {
            return Ok(make());
        }
    }
    Err("the SDK tests need a network, a mount and a process namespace of their own, and this machine permits none: \
         run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN (docker run --privileged), or allow user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1)"
        .into())
}

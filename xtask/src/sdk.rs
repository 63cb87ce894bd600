//! The step `sdk`: pytest in tests/sdk, in namespaces of its own.
//!
//! The SDKs fix the ports 8883 and 443, and connect to the host name of the connection string. So
//! pytest, the hub and every client run where all ports are free and the hub's names mean loopback:
//! in a new network namespace, with an /etc/hosts of its own, in a new process namespace, which
//! ends everything in it when pytest ends. `unshare` makes all three and leaves nothing on the
//! machine, which `ip netns` (it names a namespace) would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{run_shown, succeeds};
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

/// pytest over tests/sdk. `built`: the binary was built by the step before this one.
pub fn command(built: bool, args: &[String]) -> Result<Command> {
    let binary = binary(built)?;
    let home = workspace::sdk_home()?;
    let hosts = home.join("hosts");
    fs::write(&hosts, HOSTS)
        .map_err(|error| format!("cannot write {}: {error}", hosts.display()))?;
    let tests = workspace::root()?.join("tests/sdk");
    let mut command = namespaced()?;
    command.args(["sh", "-c", INSIDE, "sh"]).arg(&hosts);
    command.arg(home.join("venv/bin/python")).args(["-m", "pytest", "--basetemp"]);
    command.arg(home.join("tmp")).args(args).current_dir(&tests);
    let xtask = std::env::current_exe();
    let xtask = xtask.map_err(|error| format!("cannot find this program: {error}"))?;
    command
        .env("DUNLIN_BIN", binary)
        .env("DUNLIN_XTASK", xtask)
        .env("NODE_PATH", home.join("node/node_modules"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    // What the person who calls has set up for a hub of their own is not meant.
    for name in ["DUNLIN_LOGIN", "DUNLIN_CA", "PYTEST_ADDOPTS", "NODE_EXTRA_CA_CERTS"] {
        command.env_remove(name);
    }
    Ok(command)
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

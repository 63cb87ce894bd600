//! Installs what the tests need and the machine lacks: Debian packages, a Python venv, Node modules,
//! promtool.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{output, run_shown, succeeds};
use crate::{Result, workspace};

/// A tool: how to see whether it is there, and the Debian packages that bring it.
struct Tool {
    probe: &'static [&'static str],
    packages: &'static [&'static str],
}

const TOOLS: [Tool; 11] = [
    // librdkafka is built with them.
    Tool { probe: &["make", "--version"], packages: &["make"] },
    Tool { probe: &["c++", "--version"], packages: &["g++"] },
    Tool { probe: &["pkg-config", "--exists", "openssl"], packages: &["pkg-config", "libssl-dev"] },
    Tool { probe: &["git", "--version"], packages: &["git"] },
    Tool {
        probe: &["python3", "-c", "import venv, ensurepip"],
        packages: &["python3", "python3-venv"],
    },
    Tool { probe: &["node", "--version"], packages: &["nodejs"] },
    Tool { probe: &["npm", "--version"], packages: &["npm"] },
    Tool { probe: &["openssl", "version"], packages: &["openssl"] },
    Tool { probe: &["ip", "-V"], packages: &["iproute2"] },
    // It checks deploy/haproxy.cfg.
    Tool { probe: &["/usr/sbin/haproxy", "-v"], packages: &["haproxy"] },
    // Without a display, and without what shows windows: it opens the load test's report.
    Tool {
        probe: &["chromium-headless-shell", "--version"],
        packages: &["chromium-headless-shell"],
    },
];

pub fn run() -> Result<()> {
    packages()?;
    components()?;
    let source = workspace::root()?.join("tests/sdk");
    let home = workspace::sdk_home()?;
    fs::create_dir_all(&home)
        .map_err(|error| format!("cannot create {}: {error}", home.display()))?;
    venv(&source, &home.join("venv"))?;
    node_modules(&source, &home.join("node"))?;
    promtool(&home.join("prometheus"))
}

/// A command line as a command.
fn command(line: &[&str]) -> Command {
    let mut command = Command::new(line.first().copied().unwrap_or_default());
    command.args(line.iter().skip(1));
    command
}

pub fn succeed(command: &mut Command, what: &str) -> Result<()> {
    if run_shown(command)? { Ok(()) } else { Err(format!("cannot {what}: see above")) }
}

fn packages() -> Result<()> {
    let missing = TOOLS.iter().filter(|tool| !succeeds(&mut command(tool.probe)));
    let packages: Vec<_> = missing.flat_map(|tool| tool.packages).copied().collect();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !succeeds(&mut command(&["apt-get", "--version"])) {
        return Err(format!(
            "missing, under their Debian names: {list}; there is no apt-get to install them with"
        ));
    }
    if output(&mut command(&["id", "-u"]))? != "0" {
        return Err(format!("missing packages and not root; run: sudo apt-get install {list}"));
    }
    println!("installing {list}");
    let apt = |args: &[&str]| {
        let mut apt = command(&["apt-get", "-q"]);
        apt.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    succeed(&mut apt(&["update"]), "run apt-get update")?;
    let mut install = apt(&["install", "-y", "--no-install-recommends"]);
    succeed(install.args(&packages), &format!("install {list}"))?;
    let broken: Vec<_> = TOOLS.iter().filter(|tool| !succeeds(&mut command(tool.probe))).collect();
    match broken.first() {
        None => Ok(()),
        Some(tool) => {
            Err(format!("`{}` still fails after installing {list}", tool.probe.join(" ")))
        }
    }
}

/// rustfmt and clippy: a minimal toolchain of rustup lacks them.
fn components() -> Result<()> {
    let missing = ["fmt", "clippy"]
        .into_iter()
        .any(|tool| !succeeds(&mut command(&["cargo", tool, "--version"])));
    if !missing {
        return Ok(());
    }
    if !succeeds(&mut command(&["rustup", "--version"])) {
        return Err("cargo fmt or cargo clippy is missing, and there is no rustup to add it".into());
    }
    succeed(
        &mut command(&["rustup", "component", "add", "rustfmt", "clippy"]),
        "add rustfmt and clippy",
    )
}

fn venv(source: &Path, venv: &Path) -> Result<()> {
    let requirements = source.join("requirements.txt");
    // A venv belongs to the Python that made it.
    let wanted =
        format!("{}\n{}", output(&mut command(&["python3", "-VV"]))?, read(&requirements)?);
    with_stamp(venv, &wanted, || {
        succeed(
            command(&["python3", "-m", "venv", "--clear"]).arg(venv),
            "create the Python venv",
        )?;
        let mut pip = Command::new(venv.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--requirement",
        ]);
        succeed(pip.arg(&requirements), "install the Python packages")
    })
}

fn node_modules(source: &Path, home: &Path) -> Result<()> {
    let lock = read(&source.join("package-lock.json"))?;
    let wanted = format!("{}\n{lock}", output(&mut command(&["node", "--version"]))?);
    with_stamp(home, &wanted, || {
        fs::create_dir_all(home)
            .map_err(|error| format!("cannot create {}: {error}", home.display()))?;
        for name in ["package.json", "package-lock.json", ".npmrc"] {
            fs::copy(source.join(name), home.join(name))
                .map_err(|error| format!("cannot copy {name}: {error}"))?;
        }
        let mut npm = command(&[
            "npm",
            "ci",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
            "--loglevel=error",
        ]);
        succeed(npm.current_dir(home), "install the Node modules")
    })
}

/// Unpacked and not installed: the package would start a Prometheus.
fn promtool(home: &Path) -> Result<()> {
    with_stamp(home, "promtool", || {
        let _ = fs::remove_dir_all(home);
        fs::create_dir_all(home)
            .map_err(|error| format!("cannot create {}: {error}", home.display()))?;
        let download = ["apt-get", "-q", "download", "prometheus"];
        if !run_shown(command(&download).current_dir(home))? {
            // The lists of packages may be older than what they name, or not there.
            succeed(&mut command(&["apt-get", "-q", "update"]), "run apt-get update")?;
            succeed(command(&download).current_dir(home), "download prometheus")?;
        }
        let unpack = "dpkg -x prometheus_*.deb . && rm prometheus_*.deb";
        succeed(command(&["sh", "-c", unpack]).current_dir(home), "unpack prometheus")
    })
}

/// Runs `build` unless `folder` was built for `wanted` before.
pub fn with_stamp(folder: &Path, wanted: &str, build: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = folder.join("stamp");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    println!("installing into {}", folder.display());
    // An install that is broken off must not be taken for a finished one.
    let _ = fs::remove_file(&stamp);
    build()?;
    fs::write(&stamp, wanted).map_err(|error| format!("cannot write {}: {error}", stamp.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

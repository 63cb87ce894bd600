//! Apache Kafka: one broker in KRaft mode, its jars from Maven Central.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{KAFKA, Started, bound};
use crate::prepare::{succeed, with_stamp};
use crate::process::output;
use crate::server::{Server, free_port, install, runs};
use crate::{Result, workspace};

pub fn prepare() -> Result<()> {
    install("java", || runs("java", "-version"), "default-jre-headless")?;
    install("mvn", || runs("mvn", "--version"), "maven")?;
    let folder = folder()?;
    fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    let pom = workspace::root()?.join("xtask/kafka/pom.xml");
    let wanted = fs::read_to_string(&pom)
        .map_err(|error| format!("cannot read {}: {error}", pom.display()))?;
    with_stamp(&folder, &wanted, || {
        let mut mvn = Command::new("mvn");
        mvn.args(["--quiet", "--batch-mode", "dependency:copy-dependencies", "--file"]).arg(&pom);
        mvn.arg(format!("-DoutputDirectory={}", folder.join("libs").display()));
        succeed(&mut mvn, "collect Kafka's jars with Maven")
    })
}

/// With the jars in `libs`.
pub fn folder() -> Result<PathBuf> {
    Ok(workspace::target()?.join("kafka"))
}

pub fn start(folder: &Path) -> Result<Started> {
    let (port, controller) = (free_port()?, free_port()?);
    let home = folder.join("kafka");
    fs::create_dir_all(&home)
        .map_err(|error| format!("cannot create {}: {error}", home.display()))?;
    let properties = home.join("server.properties");
    fs::write(&properties, settings(port, controller, &home.join("data")))
        .map_err(|error| format!("cannot write {}: {error}", properties.display()))?;
    let java = || -> Result<Command> {
        let mut java = bound(Path::new("java"));
        // One broker for a while: a small heap, and a compiler that starts fast.
        java.args(["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
        java.arg(self::folder()?.join("libs/*")).current_dir(&home);
        Ok(java)
    };
    let tool = |args: &[&str]| output(java()?.arg("kafka.tools.StorageTool").args(args));
    let cluster = tool(&["random-uuid"])?;
    tool(&["format", "--standalone", "-t", &cluster, "-c", "server.properties"])?;
    let mut kafka = java()?;
    kafka.args(["kafka.Kafka", "server.properties"]);
    let server = Server::start("kafka", &mut kafka, &folder.join("kafka.log"))?;
    // It listens once it has joined its cluster.
    let ready = move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
    let variables = vec![(KAFKA, format!("kafka://127.0.0.1:{port}"))];
    Ok(Started { server, ready: Box::new(ready), variables })
}

/// A broker that is its own controller, for one replica of everything.
fn settings(port: u16, controller: u16, data: &Path) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
",
        data.display()
    )
}

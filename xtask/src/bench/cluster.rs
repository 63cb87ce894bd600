//! A cluster as what is measured: two gateways and a process for each other role, on Postgres, Redis
//! and Kafka of its own, with its clients and its peers on the same processors.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use super::turn::{Turn, turn};
use super::{Bench, Options, text};
use crate::Result;
use crate::cluster::{self, Cluster};
use crate::process::output;
use crate::server::free_port;
use crate::servers::{KAFKA, POSTGRES};

pub const SECONDS: u32 = 10;
pub const ROUNDS: u32 = 3;
const GATEWAYS: u16 = 2;

pub struct Measured {
    cluster: Cluster,
    login: String,
    ca: PathBuf,
    mqtt_port: u16,
    devices: String,
    seconds: String,
}

impl Measured {
    /// Starts it and creates the devices.
    pub fn start(bench: &Bench, options: &Options, devices: u32) -> Result<Self> {
        let mqtt_port = free_port()?;
        let asked = cluster::Options {
            gateways: GATEWAYS,
            data: bench.folder.join("cluster"),
            mqtt_port,
            https_port: Some(free_port()?),
            admin_port: 0,
            print: false,
            ..cluster::Options::default()
        };
        let cluster = Cluster::start(&asked, &AtomicBool::new(false))?;
        let file = cluster.data.join("hub.json");
        let json = fs::read_to_string(&file)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        let measured = Self {
            login: text(&json, "owner_connection_string")?,
            ca: text(&json, "ca")?.into(),
            mqtt_port,
            devices: options.devices.unwrap_or(devices).to_string(),
            seconds: options.seconds.unwrap_or(SECONDS).to_string(),
            cluster,
        };
        let mut create = measured.client(bench, "create");
        output(&mut create)?;
        Ok(measured)
    }

    /// A command of the load test for the devices that were created.
    pub fn client(&self, bench: &Bench, command: &str) -> Command {
        let mut client = bench.client();
        client.args([command, "--devices", &self.devices]);
        client.args(["--mqtt-port", &self.mqtt_port.to_string()]);
        client.env("DUNLIN_LOGIN", &self.login).env("DUNLIN_CA", &self.ca);
        client
    }

    /// A turn in which `what` of the load test's command line is done; all of the hub's processes
    /// are watched, the servers are not.
    pub fn turn(&self, bench: &Bench, what: &[&str]) -> Result<Turn> {
        let mut client = self.client(bench, "run");
        turn(bench, client.arg("--reuse").args(what), &self.pids(), &self.seconds)
    }

    pub fn pids(&self) -> Vec<u32> {
        self.cluster.processes.iter().map(|one| one.server.pid()).collect()
    }

    pub fn devices(&self) -> &str {
        &self.devices
    }

    pub fn seconds(&self) -> &str {
        &self.seconds
    }

    pub fn postgres(&self) -> Result<String> {
        self.cluster.servers.variable(POSTGRES)
    }

    pub fn kafka(&self) -> Result<String> {
        self.cluster.servers.variable(KAFKA)
    }

    pub fn stop(self) -> Result<()> {
        self.cluster.stop()
    }
}

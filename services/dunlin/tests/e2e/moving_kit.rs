//! What the tests of `dunlin export` and `dunlin import` share: hubs of the real binary, on a data
//! folder or on servers, and what a hub knows.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use dunlin::client::Client;
use dunlin_storage::testing::Place;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::process::{Hub, dunlin};

/// A hub's data folder, and what of its settings is not the default.
pub struct Site {
    pub data: PathBuf,
    pub settings: Vec<(String, String)>,
}

impl Site {
    /// Stores in the folder.
    pub fn embedded(data: PathBuf) -> Self {
        let settings = vec![("DUNLIN__C2D__FEEDBACK_BATCH_SECONDS".to_owned(), "0".to_owned())];
        Self { data, settings }
    }

    /// Devices in Postgres, events in Kafka, presence in Redis.
    pub fn on_servers(data: PathBuf, place: &Place) -> Self {
        let mut site = Self::embedded(data);
        site.set("DUNLIN__STORES__DEVICES", &place.postgres());
        site.set("DUNLIN__STORES__EVENTS", &place.kafka());
        site.set("DUNLIN__STORES__PRESENCE", &place.redis());
        site
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    pub async fn start(&self) -> Hub {
        let settings: Vec<_> = self.settings.iter().map(|(a, b)| (&**a, &**b)).collect();
        Hub::start_with(&self.data, &settings).await
    }

    /// `dunlin export` or `dunlin import` of this hub.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = dunlin();
        command.env_remove("DUNLIN_MASTER_KEY");
        command.envs(self.settings.iter().map(|(a, b)| (a, b)));
        if let [name, rest @ ..] = arguments {
            command.arg(name).arg("--data").arg(&self.data).args(rest);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub async fn export(&self, file: &Path) -> Output {
        let mut command = self.command(&["export", "--json", "--output"]);
        command.arg(file).output().await.expect("it runs")
    }

    pub async fn import(&self, file: &Path) -> Output {
        let mut command = self.command(&["import", "--json", "--input"]);
        command.arg(file).output().await.expect("it runs")
    }

    /// The same, row by row, as was exported to that file.
    pub async fn holds(&self, file: &Path) {
        let (exported, held) = (std::fs::read_to_string(file).expect("text"), self.rows().await);
        for (exported, held) in exported.lines().zip(held.lines()) {
            assert_eq!(held, exported);
        }
        assert_eq!(held.len(), exported.len());
    }

    /// What it would export.
    pub async fn rows(&self) -> String {
        let output = self.command(&["export", "--output", "-"]).output().await.expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// All that the REST API tells of devices and settings, but for who is connected and what time
/// changes by itself.
pub async fn known(client: &Client) -> Value {
    let devices = client.device_list(100).await.expect("a list");
    let mut all = json!({
        "policies": client.policy_list().await.expect("policies"),
        "certificates": client.certificate_list().await.expect("certificates"),
        "devices": devices,
    });
    for device in devices.as_array().expect("an array") {
        let id = device["deviceId"].as_str().expect("an id");
        all[format!("twin of {id}")] = client.twin_get(id).await.expect("a twin");
        let modules = client.module_list(id).await.expect("modules");
        for module in modules.as_array().expect("an array") {
            let id = format!("{id}/{}", module["moduleId"].as_str().expect("an id"));
            all[format!("twin of {id}")] = client.twin_get(&id).await.expect("a twin");
        }
        all[format!("modules of {id}")] = modules;
    }
    let soft = ["connectionState", "lastActivityTime", "cloudToDeviceMessageCount"];
    strip(&mut all, &[&soft[..], &["connectionStateUpdatedTime"]].concat());
    all
}

fn strip(value: &mut Value, names: &[&str]) {
    match value {
        Value::Object(object) => {
            object.retain(|name, _| !names.contains(&&**name));
            object.values_mut().for_each(|value| strip(value, names));
        }
        Value::Array(array) => array.iter_mut().for_each(|value| strip(value, names)),
        _ => {}
    }
}

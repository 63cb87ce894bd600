//! The stores a process works on, chosen by URL.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dunlin_storage::device_store::SqliteDeviceStore;
use dunlin_storage::event_log::{SegmentLog, SegmentLogConfig};
use dunlin_storage::presence::MemoryPresence;
use dunlin_storage::sqlite::{DataFolder, Sqlite};
use dunlin_storage::{DeviceStore, EventLog, Presence};

use crate::config::Config;

/// Handles on the stores; a clone is the same stores.
#[derive(Clone)]
pub struct Stores {
    pub devices: Arc<dyn DeviceStore>,
    pub events: Arc<dyn EventLog>,
    pub presence: Arc<dyn Presence>,
}

impl Stores {
    pub async fn open(config: &Config) -> Result<Self> {
        let urls = &config.stores;
        let mut folders = Folders { data: config.hub.data.clone(), open: BTreeMap::new() };
        let (_, sqlite) = folders.get("stores.devices", &urls.devices)?;
        let devices: Arc<dyn DeviceStore> = Arc::new(SqliteDeviceStore::new(sqlite));
        let (folder, sqlite) = folders.get("stores.events", &urls.events)?;
        let shape = SegmentLogConfig {
            partitions: urls.event_partitions,
            retention_age: Duration::from_secs(urls.event_retention_hours.saturating_mul(3_600)),
            ..SegmentLogConfig::default()
        };
        let folder = folder.join("events");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let events = SegmentLog::open(&folder, sqlite, shape)?;
        if urls.presence != "memory:" {
            return Err(unsupported("stores.presence", &urls.presence, "memory:"));
        }
        let generation = devices.epoch_generation_next().await?;
        let presence = Arc::new(MemoryPresence::new(generation));
        Ok(Self { devices, events: Arc::new(events), presence })
    }

    /// Makes durable what was accepted. Last of all, once nobody appends any more.
    pub async fn close(&self) {
        self.events.close().await;
    }
}

/// Data folders by path: two stores in one folder share it.
struct Folders {
    data: PathBuf,
    open: BTreeMap<PathBuf, Sqlite>,
}

impl Folders {
    fn get(&mut self, setting: &str, url: &str) -> Result<(PathBuf, Sqlite)> {
        let Some(path) = url.strip_prefix("embedded:") else {
            return Err(unsupported(setting, url, "embedded:FOLDER"));
        };
        let path = if path.is_empty() { self.data.clone() } else { Path::new(path).to_owned() };
        // However it is written, a folder is opened once.
        let known = path.canonicalize().ok().and_then(|path| self.open.get(&path).cloned());
        if let Some(sqlite) = known {
            return Ok((path, sqlite));
        }
        let sqlite = DataFolder::open(&path)?.sqlite();
        self.open.insert(path.canonicalize()?, sqlite.clone());
        Ok((path, sqlite))
    }
}

fn unsupported(setting: &str, url: &str, supported: &str) -> anyhow::Error {
    // A URL of a server may carry a password: only its scheme is repeated.
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    anyhow!("{setting} cannot be of the kind \"{scheme}:\"; this version supports {supported}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_schemes_are_refused_by_name_and_without_their_password() {
        let folder = tempfile::tempdir().expect("a folder");
        for (setting, supported) in
            [("devices", "embedded:"), ("events", "embedded:"), ("presence", "memory:")]
        {
            let mut config = Config::default();
            config.hub.data = folder.path().to_owned();
            let url = "postgres://me:secret@host/db".to_owned();
            match setting {
                "devices" => config.stores.devices = url,
                "events" => config.stores.events = url,
                _ => config.stores.presence = url,
            }
            let error = Stores::open(&config).await.err().expect("refused").to_string();
            for part in [setting, "postgres:", supported] {
                assert!(error.contains(part), "{error}");
            }
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

//! The stores a process works on, chosen by URL.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dunlin_runtime::stores::StoreObserver;
use dunlin_runtime::{Role, clock};
use dunlin_storage::command_queue::{PostgresCommandQueue, SqliteCommandQueue};
use dunlin_storage::device_store::{NODE_END_PIECE, PostgresDeviceStore, SqliteDeviceStore};
use dunlin_storage::event_log::{KafkaLog, KafkaLogConfig, SegmentLog, SegmentLogConfig};
use dunlin_storage::postgres::{Postgres, PostgresConfig};
use dunlin_storage::presence::{MemoryPresence, RedisPresence};
use dunlin_storage::sqlite::{DataFolder, FolderError, Sqlite};
use dunlin_storage::transfer::{PostgresTransfer, SqliteTransfer};
use dunlin_storage::twin_store::{PostgresTwinStore, SqliteTwinStore};
use dunlin_storage::{CommandQueue, DeviceStore, EventLog, Presence, Transfer, TwinStore};

use super::unopened::Unopened;
use crate::config::{Config, Stores as Urls};

/// Handles on the stores; a clone is the same stores.
#[derive(Clone)]
pub struct Stores {
    pub devices: Arc<dyn DeviceStore>,
    /// On the same data: a twin lives and dies with its identity.
    pub twins: Arc<dyn TwinStore>,
    /// On the same data, too: a queue goes with its device.
    pub commands: Arc<dyn CommandQueue>,
    pub events: Arc<dyn EventLog>,
    pub presence: Arc<dyn Presence>,
}

impl Stores {
    pub async fn open(config: &Config) -> Result<Self> {
        Self::open_for(config, &Role::ALL).await
    }

    /// What these roles use.
    pub async fn open_for(config: &Config, roles: &[Role]) -> Result<Self> {
        let urls = &config.stores;
        let mut folders = Folders { data: config.hub.data.clone(), open: BTreeMap::new() };
        let devices = devices(&mut folders, &urls.devices).await;
        let (devices, twins, commands) = devices.context("stores.devices cannot be used")?;
        let events = match roles.iter().any(|role| matches!(role, Role::Gateway | Role::Api)) {
            true => events(urls, &mut folders).await.context("stores.events cannot be used")?,
            false => Arc::new(Unopened),
        };
        let presence = presence(&urls.presence, &devices).await;
        let presence = presence.context("stores.presence cannot be used")?;
        Ok(Self { devices, twins, commands, events, presence })
    }

    /// The same, with each operation observed.
    pub fn observed(&self, urls: &Urls, observer: &StoreObserver) -> Self {
        let (devices, events) = (system(&urls.devices), system(&urls.events));
        Self {
            devices: observer.over("devices", devices, self.devices.clone()),
            twins: observer.over("twins", devices, self.twins.clone()),
            commands: observer.over("commands", devices, self.commands.clone()),
            events: observer.over("events", events, self.events.clone()),
            presence: observer.over("presence", system(&urls.presence), self.presence.clone()),
        }
    }

    /// Where the devices of a stopped hub are.
    pub async fn for_export(config: &Config) -> Result<Arc<dyn Transfer>> {
        transfer(config, true).await.context("stores.devices cannot be exported")
    }

    /// Where devices are to be; a data folder is made.
    pub async fn for_import(config: &Config) -> Result<Arc<dyn Transfer>> {
        transfer(config, false).await.context("stores.devices cannot be imported to")
    }

    /// Makes durable what was accepted. Last of all, once nobody appends any more.
    pub async fn close(&self) {
        self.events.close().await;
    }
}

type Devices = (Arc<dyn DeviceStore>, Arc<dyn TwinStore>, Arc<dyn CommandQueue>);

/// Where devices may be.
const DEVICES: &str = "embedded:FOLDER and postgres://…";

/// Three ports on the same data.
async fn devices(folders: &mut Folders, url: &str) -> Result<Devices> {
    if is_postgres(url) {
        let postgres = Postgres::open(&PostgresConfig::new(url)).await?;
        return Ok((
            Arc::new(PostgresDeviceStore::new(&postgres)),
            Arc::new(PostgresTwinStore::new(&postgres)),
            Arc::new(PostgresCommandQueue::new(&postgres)),
        ));
    }
    let (_, sqlite) = folders.get(url, DEVICES)?;
    Ok((
        Arc::new(SqliteDeviceStore::new(sqlite.clone())),
        Arc::new(SqliteTwinStore::new(sqlite.clone())),
        Arc::new(SqliteCommandQueue::new(sqlite)),
    ))
}

async fn transfer(config: &Config, must_exist: bool) -> Result<Arc<dyn Transfer>> {
    let url = &config.stores.devices;
    if is_postgres(url) {
        let postgres = Postgres::open(&PostgresConfig::new(url)).await?;
        return Ok(Arc::new(PostgresTransfer::new(postgres)));
    }
    let mut folders = Folders { data: config.hub.data.clone(), open: BTreeMap::new() };
    let path = folders.path(url, DEVICES)?;
    if must_exist && !DataFolder::exists(&path) {
        return Err(anyhow!("there is no hub in {}: --data names its folder", path.display()));
    }
    let opened = folders.get(url, DEVICES).map_err(|error| match error.downcast_ref() {
        Some(FolderError::InUse { .. }) => error.context("stop the hub first"),
        _ => error,
    });
    Ok(Arc::new(SqliteTransfer::new(opened?.1)))
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

async fn presence(url: &str, devices: &Arc<dyn DeviceStore>) -> Result<Arc<dyn Presence>> {
    if url.starts_with("redis://") || url.starts_with("rediss://") {
        return Ok(Arc::new(RedisPresence::open(url, devices.clone()).await?));
    }
    if url != "memory:" {
        return Err(unsupported(url, "memory: and redis://…"));
    }
    let generation = devices.epoch_generation_next().await?;
    // With presence in memory this is the only gateway there is: whoever was connected before it
    // started is not any more.
    for node in devices.node_list().await? {
        let end = || devices.node_end(&node, clock::unix_millis(), NODE_END_PIECE);
        while end().await? == NODE_END_PIECE {}
    }
    Ok(Arc::new(MemoryPresence::new(generation)))
}

async fn events(urls: &Urls, folders: &mut Folders) -> Result<Arc<dyn EventLog>> {
    let partitions = urls.event_partitions;
    let hours = urls.event_retention_hours.max(1);
    let retention_age = Duration::from_secs(hours.saturating_mul(3_600));
    if urls.events.starts_with("kafka:") {
        let shape = KafkaLogConfig { partitions, retention_age, ..KafkaLogConfig::default() };
        return Ok(Arc::new(KafkaLog::open(&urls.events, shape).await?));
    }
    let supported = "embedded:FOLDER and kafka://HOST:PORT";
    let (folder, sqlite) = folders.get(&urls.events, supported)?;
    let shape = SegmentLogConfig { partitions, retention_age, ..SegmentLogConfig::default() };
    let folder = folder.join("events");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(Arc::new(SegmentLog::open(&folder, sqlite, shape)?))
}

/// Data folders by path: two stores in one folder share it.
struct Folders {
    data: PathBuf,
    open: BTreeMap<PathBuf, Sqlite>,
}

impl Folders {
    fn path(&self, url: &str, supported: &str) -> Result<PathBuf> {
        match url.strip_prefix("embedded:") {
            Some("") => Ok(self.data.clone()),
            Some(path) => Ok(Path::new(path).to_owned()),
            None => Err(unsupported(url, supported)),
        }
    }

    fn get(&mut self, url: &str, supported: &str) -> Result<(PathBuf, Sqlite)> {
        let path = self.path(url, supported)?;
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

/// What is behind a URL, as OpenTelemetry names it.
fn system(url: &str) -> &'static str {
    match url.split_once(':').map_or(url, |(scheme, _)| scheme) {
        "postgres" | "postgresql" => "postgresql",
        "redis" | "rediss" => "redis",
        "kafka" => "kafka",
        "embedded" => "embedded",
        _ => "memory",
    }
}

fn unsupported(url: &str, supported: &str) -> anyhow::Error {
    // A URL of a server may carry a password: only its scheme is repeated.
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    anyhow!("it cannot be of the kind \"{scheme}:\"; this version supports {supported}")
}

#[cfg(test)]
mod tests {
    use dunlin_model::{ConnectionState, Identity, Session, Status};
    use dunlin_storage::device_store::{ConnectionReport, StoredIdentity};

    use super::*;

    #[tokio::test]
    async fn nobody_is_connected_from_before_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::default();
        config.hub.data = folder.path().to_owned();
        let stores = Stores::open(&config).await.expect("stores");
        let id = Identity::device("d").expect("an id");
        let state = ConnectionState { connected: true, updated: 1, last_activity: 2 };
        let device = StoredIdentity {
            id: id.clone(),
            generation_id: "1".into(),
            etag: "1".into(),
            status: Status::Enabled,
            status_reason: None,
            status_updated: 0,
            auth_type: "none".into(),
            credentials: Vec::new(),
            thumbprints: None,
            auth_version: 1,
            iot_edge: false,
            device_scope: None,
            parent_scopes: Vec::new(),
            managed_by: None,
            connection: ConnectionState::default(),
            session: Session::default(),
        };
        stores.devices.identity_create(device).await.expect("created");
        let report = ConnectionReport::State {
            id: id.clone(),
            generation_id: "1".into(),
            epoch: 1,
            state,
            node: "n".into(),
        };
        stores.devices.connections_record(vec![report]).await.expect("recorded");
        let read = async |stores: &Stores| {
            let device = stores.devices.identity_get(&id).await.expect("read").expect("found");
            device.connection
        };
        assert_eq!(read(&stores).await, state);
        // The process ends without a word of its connections.
        stores.close().await;
        drop(stores);
        let now = read(&Stores::open(&config).await.expect("stores again")).await;
        assert!(!now.connected && now.updated > state.updated && now.last_activity == 2, "{now:?}");
    }

    #[tokio::test]
    async fn events_may_be_in_kafka() {
        let folder = tempfile::tempdir().expect("a folder");
        let server = dunlin_storage::testing::variable("DUNLIN_TEST_KAFKA");
        let mut config = Config::default();
        config.hub.data = folder.path().to_owned();
        config.stores.event_partitions = 3;
        config.stores.events = format!("{server}?prefix=stores-{}", std::process::id());
        let stores = Stores::open(&config).await.expect("stores");
        assert_eq!(stores.events.partitions(), 3);
        stores.events.range("d2c", 2).await.expect("its topic is there");
        stores.close().await;
        drop(stores);
        config.stores.events = "kafka://me:secret@127.0.0.1:9?acks=1".to_owned();
        let error = format!("{:#}", Stores::open(&config).await.err().expect("refused"));
        assert!(error.contains("acks") && !error.contains("secret"), "{error}");
    }

    #[tokio::test]
    async fn other_schemes_are_refused_by_name_and_without_their_password() {
        let folder = tempfile::tempdir().expect("a folder");
        for (setting, supported) in
            [("devices", "embedded:"), ("events", "kafka:"), ("presence", "redis://")]
        {
            let mut config = Config::default();
            config.hub.data = folder.path().to_owned();
            let url = "mysql://me:secret@host/db".to_owned();
            match setting {
                "devices" => config.stores.devices = url,
                "events" => config.stores.events = url,
                _ => config.stores.presence = url,
            }
            let error = format!("{:#}", Stores::open(&config).await.err().expect("refused"));
            for part in [setting, "mysql:", supported] {
                assert!(error.contains(part), "{error}");
            }
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_database_that_cannot_be_reached_is_named_without_its_password() {
        let folder = tempfile::tempdir().expect("a folder");
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = nobody.local_addr().expect("an address");
        drop(nobody);
        let mut config = Config::default();
        config.hub.data = folder.path().to_owned();
        config.stores.devices = format!("postgres://me:secret@{address}/db");
        let error = format!("{:#}", Stores::open(&config).await.err().expect("refused"));
        assert!(error.contains(&format!("{address}/db")) && !error.contains("secret"), "{error}");
    }
}

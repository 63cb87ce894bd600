//! Places in Redis for tests: in the server of the run, or in one of a test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::device_store::SqliteDeviceStore;
use crate::presence::RedisPresence;
use crate::sqlite::DataFolder;
pub use crate::testing::redis::Server;
pub use crate::testing::variable;
use crate::{DeviceStore, StoreError};

/// The URL of the run's server.
pub fn of_the_run() -> String {
    variable("DUNLIN_TEST_REDIS")
}

/// A place in a server that no other test has, and where its generations come from.
pub struct Redis {
    url: String,
    devices: Arc<dyn DeviceStore>,
    _folder: TempDir,
}

impl Redis {
    pub fn new(server: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().expect("a folder");
        let data = DataFolder::open(folder.path()).expect("a data folder");
        let devices = Arc::new(SqliteDeviceStore::new(data.sqlite()));
        let end = if server.contains('?') { '&' } else { '?' };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let url = format!("{server}{end}prefix=test-{}-{number}", std::process::id());
        Self { url, devices, _folder: folder }
    }

    /// As another process of the same hub opens it.
    pub async fn open(&self) -> Result<RedisPresence, StoreError> {
        RedisPresence::open(&self.url, self.devices.clone()).await
    }

    pub async fn presence(&self) -> RedisPresence {
        self.open().await.expect("presence")
    }
}

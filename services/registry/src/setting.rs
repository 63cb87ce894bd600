//! A setting of the hub: stored sealed, held in memory for a second, changed by compare and swap.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dunlin_model::{ErrorCode, HubError};
use dunlin_storage::{DeviceStore, StoreError};
use tracing::error;

use crate::seal::{MasterKey, Unsealable};
use crate::{BuildError, store_failed};

/// No identity can have this name.
const SEALED_FOR: &str = "hub/settings/";
/// How long a change made by another registry process may go unseen.
const KEPT: Duration = Duration::from_secs(1);

/// What a setting holds.
pub(crate) trait Content: Clone + Send + Sync + 'static {
    /// In the store.
    const NAME: &'static str;

    fn to_bytes(&self) -> Vec<u8>;

    /// `None`: these were not written by `to_bytes`.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

pub(crate) struct Setting<T>(Arc<Shared<T>>);

impl<T> Clone for Setting<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<T> {
    store: Arc<dyn DeviceStore>,
    key: MasterKey,
    kept: Mutex<Snapshot<T>>,
    /// Held by the one who reads, so that a thousand callers cost one read.
    reading: tokio::sync::Mutex<()>,
}

/// The setting at one moment, and the bytes it was read from.
struct Snapshot<T> {
    content: Arc<T>,
    sealed: Arc<[u8]>,
    read: Instant,
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        let Self { content, sealed, read } = self;
        Self { content: content.clone(), sealed: sealed.clone(), read: *read }
    }
}

impl<T: Content> Setting<T> {
    /// What is stored; in a new hub `first`. Of processes that start at once on a new store, the
    /// first to write decides for all.
    pub(crate) async fn load(
        store: Arc<dyn DeviceStore>,
        key: MasterKey,
        first: &T,
    ) -> Result<Self, BuildError> {
        let sealed = store.setting_init(T::NAME, &seal(&key, first)).await?;
        let content = Arc::new(open(&key, &sealed)?);
        let kept = Mutex::new(Snapshot { content, sealed: sealed.into(), read: Instant::now() });
        Ok(Self(Arc::new(Shared { store, key, kept, reading: tokio::sync::Mutex::default() })))
    }

    /// The setting as it was a second ago at the latest.
    pub(crate) async fn get(&self) -> Result<Arc<T>, HubError> {
        let kept = self.kept();
        if kept.read.elapsed() < KEPT {
            return Ok(kept.content);
        }
        let _turn = self.0.reading.lock().await;
        let kept = self.kept();
        if kept.read.elapsed() < KEPT { Ok(kept.content) } else { Ok(self.read().await?.content) }
    }

    /// Changes what is stored, and again what was changed in between.
    pub(crate) async fn change<R>(
        &self,
        change: impl Fn(&mut T) -> Result<R, HubError>,
    ) -> Result<R, HubError> {
        loop {
            let old = self.read().await?;
            let mut content = T::clone(&old.content);
            let outcome = change(&mut content)?;
            let sealed: Arc<[u8]> = seal(&self.0.key, &content).into();
            match self.0.store.setting_replace(T::NAME, &old.sealed, &sealed).await {
                Ok(()) => {
                    let content = Arc::new(content);
                    self.keep(Snapshot { content, sealed, read: Instant::now() });
                    return Ok(outcome);
                }
                Err(StoreError::PreconditionFailed) => {}
                Err(other) => return Err(store_failed(other)),
            }
        }
    }

    fn kept(&self) -> Snapshot<T> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, snapshot: Snapshot<T>) -> Snapshot<T> {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // A slow read must not bring back what a change has replaced meanwhile.
        if snapshot.read >= kept.read {
            *kept = snapshot;
        }
        kept.clone()
    }

    async fn read(&self) -> Result<Snapshot<T>, HubError> {
        // A change during the read is seen by the next one: the time is taken before.
        let read = Instant::now();
        let sealed = self.0.store.setting_get(T::NAME).await.map_err(store_failed)?;
        let sealed = sealed.ok_or_else(|| unreadable::<T>(Unsealable))?;
        let kept = self.kept();
        let content = if *kept.sealed == *sealed {
            kept.content
        } else {
            Arc::new(open(&self.0.key, &sealed).map_err(unreadable::<T>)?)
        };
        Ok(self.keep(Snapshot { content, sealed: sealed.into(), read }))
    }
}

fn unreadable<T: Content>(error: Unsealable) -> HubError {
    error!(%error, setting = T::NAME, "a setting of the hub cannot be read");
    HubError::new(ErrorCode::ServerError, format!("the hub's {} cannot be read", T::NAME))
}

impl MasterKey {
    /// Whether this key has sealed a stored setting of the hub, for who moves it to another store.
    pub fn check_setting(&self, name: &str, sealed: &[u8]) -> Result<(), Unsealable> {
        self.open(SEALED_FOR, name, sealed).map(drop)
    }
}

fn seal<T: Content>(key: &MasterKey, content: &T) -> Vec<u8> {
    key.seal(SEALED_FOR, T::NAME, &content.to_bytes())
}

fn open<T: Content>(key: &MasterKey, sealed: &[u8]) -> Result<T, Unsealable> {
    T::from_bytes(&key.open(SEALED_FOR, T::NAME, sealed)?).ok_or(Unsealable)
}

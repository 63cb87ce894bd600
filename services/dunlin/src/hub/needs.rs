//! What the roles of this process cannot work without: stores, and roles of other processes. Each
//! is asked when `/readyz` is.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use dunlin_runtime::{Mesh, Role};
use dunlin_storage::event_log::TOPIC_D2C;
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::{info, warn};

use super::Stores;

/// A need that does not answer within this is not met. Less than the second that Kubernetes waits for
/// an answer, so that it comes, and its reason into the log.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long an answer holds, however often it is asked for.
const KEPT: Duration = Duration::from_secs(1);
/// A setting that no hub has.
const NO_SETTING: &str = "ready";

type Answer = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

struct Need {
    /// The setting that says where it is.
    name: &'static str,
    ask: Box<dyn Fn() -> Answer + Send + Sync>,
    met: bool,
}

/// A clone is a handle to the same.
#[derive(Clone)]
pub(super) struct Needs(Arc<Mutex<State>>);

struct State {
    needs: Vec<Need>,
    asked: Option<Instant>,
}

impl Needs {
    /// Only what nothing goes without: an api whose twins are away still serves the registry.
    pub fn new(roles: &[Role], mesh: &Mesh, stores: &Stores) -> Self {
        let any = |some: &[Role]| some.iter().any(|role| roles.contains(role));
        let mut needs = Vec::new();
        let mut need = |name, ask| needs.push(Need { name, ask, met: true });
        if any(&[Role::Registry, Role::Twins, Role::C2d]) {
            let devices = stores.devices.clone();
            need(
                "stores.devices",
                asking(move || {
                    let devices = devices.clone();
                    async move { Ok(devices.setting_get(NO_SETTING).await.map(drop)?) }
                }),
            );
        }
        if any(&[Role::Gateway]) {
            let events = stores.events.clone();
            need(
                "stores.events",
                asking(move || {
                    let events = events.clone();
                    async move { Ok(events.range(TOPIC_D2C, 0).await.map(drop)?) }
                }),
            );
        }
        if any(&[Role::Gateway, Role::Methods]) {
            let presence = stores.presence.clone();
            let node = mesh.node().to_owned();
            need(
                "stores.presence",
                asking(move || {
                    let (presence, node) = (presence.clone(), node.clone());
                    async move { Ok(presence.node_lives(&node).await.map(drop)?) }
                }),
            );
        }
        if any(&[Role::Gateway, Role::Methods, Role::Api]) {
            let mesh = mesh.clone();
            need(
                "mesh.registry",
                asking(move || {
                    let registry = mesh.channel(Role::Registry);
                    async move {
                        registry?.reach().await.map_err(|status| anyhow!("{}", status.message()))
                    }
                }),
            );
        }
        Self(Arc::new(Mutex::new(State { needs, asked: None })))
    }

    /// Each by name, and whether it is met.
    pub async fn ask(&self) -> Vec<(&'static str, bool)> {
        // Who comes meanwhile waits for the same answers.
        let mut state = self.0.lock().await;
        if state.asked.is_none_or(|asked| asked.elapsed() > KEPT) {
            let asked = state.needs.iter().map(|need| timeout(PATIENCE, (need.ask)()));
            let answers = join_all(asked).await;
            for (need, answer) in std::iter::zip(&mut state.needs, answers) {
                need.heard(answer.unwrap_or_else(|_| Err(anyhow!("no answer in {PATIENCE:?}"))));
            }
            state.asked = Some(Instant::now());
        }
        state.needs.iter().map(|need| (need.name, need.met)).collect()
    }
}

impl Need {
    /// Says so when it changes.
    fn heard(&mut self, answer: Result<()>) {
        let was = std::mem::replace(&mut self.met, answer.is_ok());
        match answer {
            Ok(()) if !was => info!(need = self.name, "it is there again"),
            Err(error) if was => {
                warn!(need = self.name, error = format!("{error:#}"), "not ready without it");
            }
            _ => {}
        }
    }
}

fn asking<F>(ask: impl Fn() -> F + Send + Sync + 'static) -> Box<dyn Fn() -> Answer + Send + Sync>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    Box::new(move || Box::pin(ask()))
}

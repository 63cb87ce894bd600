//! The anatomy of a role: what `build` of every service returns.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use crate::metrics::Registry;
use crate::{Health, Shutdown};

/// A part of the hub that can run in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Gateway,
    Registry,
    Twins,
    Methods,
    C2d,
    Api,
}

impl Role {
    pub const ALL: [Self; 6] =
        [Self::Gateway, Self::Registry, Self::Twins, Self::Methods, Self::C2d, Self::Api];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Registry => "registry",
            Self::Twins => "twins",
            Self::Methods => "methods",
            Self::C2d => "c2d",
            Self::Api => "api",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|role| role.name() == name)
            .ok_or_else(|| format!("there is no role {name:?}; roles are {}", known()))
    }
}

/// A fault that ends a role, and the process with it.
pub type RunError = Box<dyn std::error::Error + Send + Sync>;

/// Boxed, so that a role's whole state machine is not compiled into its caller's.
pub type RunFuture = Pin<Box<dyn Future<Output = Result<(), RunError>> + Send>>;

/// A built role: it serves once its routes are attached to the mesh and `run` is polled.
pub struct Component {
    pub role: Role,
    /// gRPC services and REST paths it serves, for the mesh.
    pub routes: axum::Router,
    pub health: Health,
    /// What it measures.
    pub metrics: Registry,
    /// Runs until `Shutdown` is cancelled, then ends what it began.
    pub run: Box<dyn FnOnce(Shutdown) -> RunFuture + Send>,
}

impl Component {
    /// A role that only answers calls: it is ready at once and has nothing to end.
    pub fn passive(role: Role, routes: axum::Router) -> Self {
        let health = Health::new(role.name());
        health.set_ready(true);
        Self {
            role,
            routes,
            health,
            metrics: Registry::default(),
            run: Box::new(|shutdown| {
                Box::pin(async move {
                    shutdown.cancelled().await;
                    Ok(())
                })
            }),
        }
    }
}

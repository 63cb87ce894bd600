//! The database of a cluster: a pool of connections, opened at the current schema.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;

use crate::error::chain;
use crate::{StoreError, lock};

pub(crate) mod batch;
mod migrations;
pub(crate) mod session;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod tls;
mod url;

use url::{Target, Tls};

/// Where the database is and how it is used.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`, with `?sslmode=verify-full&sslrootcert=FILE`
    /// over a network. The server must take writes: of several hosts, that one is chosen.
    pub url: String,
    /// Connections of this process, at most. They are made when they are needed.
    pub connections: usize,
    /// How long an operation may take, waiting for a connection included. Less than calls between
    /// roles may: who waits is told what failed.
    pub deadline: Duration,
}

impl PostgresConfig {
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), connections: 16, deadline: Duration::from_secs(5) }
    }
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("the URL of the Postgres server is wrong: {0}")]
    Url(String),
    #[error("cannot use Postgres at {place}: {why}")]
    Unusable { place: String, why: String },
    #[error(
        "the database {place} was written by a newer version of dunlin (schema {found}, this one \
         knows {known}): run that version, or name another database"
    )]
    Newer { place: String, found: usize, known: usize },
}

/// A handle on the database; a clone is the same pool.
#[derive(Clone)]
pub struct Postgres(Arc<Shared>);

struct Shared {
    pool: Pool,
    deadline: Duration,
    trips: Mutex<BTreeMap<&'static str, u64>>,
}

impl Postgres {
    /// Connects, and brings the schema up to date, however many processes do so at once.
    pub async fn open(config: &PostgresConfig) -> Result<Self, PostgresError> {
        let Target { config: mut server, tls, place } =
            Target::parse(&config.url).map_err(PostgresError::Url)?;
        let unusable = |why: String| PostgresError::Unusable { place: place.clone(), why };
        server.connect_timeout(config.deadline / 2);
        server.tcp_user_timeout(config.deadline);
        server.keepalives_idle(config.deadline.max(Duration::from_secs(1)));
        // After a failover, what was the primary takes no writes any more.
        server.target_session_attrs(TargetSessionAttrs::ReadWrite);
        server.options(options(config.deadline, server.get_options()));
        if server.get_application_name().is_none() {
            server.application_name("dunlin");
        }
        let pool = pool(server, &tls, config).map_err(unusable)?;
        let shared = Shared { pool, deadline: config.deadline, trips: Mutex::default() };
        let postgres = Self(Arc::new(shared));
        let client = postgres.connection().await.map_err(unusable)?;
        let answered = timeout(config.deadline, check_encoding(&client));
        let late = |_| format!("no answer within {:?}", config.deadline);
        answered.await.map_err(late).and_then(|checked| checked).map_err(unusable)?;
        let migrated = migrations::migrate(&client).await;
        let found = migrated.map_err(|error| unusable(chain(&error)))?;
        // Its session was told that a statement may take forever.
        drop(Object::take(client));
        let known = migrations::known();
        if found > known {
            return Err(PostgresError::Newer { place, found, known });
        }
        tracing::info!(place, schema = known, "opened the database");
        Ok(postgres)
    }

    /// The error is for people.
    async fn connection(&self) -> Result<Object, String> {
        match timeout(self.0.deadline, self.0.pool.get()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(PoolError::Backend(error))) => Err(chain(&error)),
            Ok(Err(PoolError::Timeout(_))) | Err(_) => {
                Err(format!("no connection was to be had within {:?}", self.0.deadline))
            }
            Ok(Err(error)) => Err(chain(&error)),
        }
    }

    /// A connection for one long transaction, under no deadline. It ends when it is dropped.
    pub(crate) async fn apart(&self) -> Result<ClientWrapper, StoreError> {
        let client = Object::take(self.connection().await.map_err(unavailable)?);
        let forever = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0";
        // It reads and writes whole tables.
        let plans = PLANS.map(|(name, _, of_tables)| format!("; SET {name} = {of_tables}"));
        client
            .batch_execute(&format!("{forever}{}", plans.concat()))
            .await
            .map_err(|error| unavailable(chain(&error)))?;
        Ok(client)
    }

    /// How often each kind of operation has waited for the server, what is done once a connection
    /// left out.
    pub fn round_trips(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.0.trips).clone()
    }

    fn count(&self, kind: &'static str) {
        *lock(&self.0.trips).entry(kind).or_default() += 1;
    }
}

fn pool(
    server: tokio_postgres::Config,
    tls: &Tls,
    config: &PostgresConfig,
) -> Result<Pool, String> {
    let recycling_method = RecyclingMethod::Fast;
    let manager =
        Manager::from_config(server, tls::connector(tls)?, ManagerConfig { recycling_method });
    Pool::builder(manager)
        .max_size(config.connections.max(1))
        .wait_timeout(Some(config.deadline))
        .create_timeout(Some(config.deadline))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| error.to_string())
}

/// How the server plans what the hub asks, most of which goes by keys: by an index, a row at a time. A plan
/// that was made while a table was small must not read all of it later, and only plain index scans
/// clear away the entries of rows that are gone. With that, what a statement is given decides on
/// nothing: it is planned once.
const PLANS: [(&str, &str, &str); 6] = [
    ("enable_seqscan", "off", "on"),
    ("enable_bitmapscan", "off", "on"),
    ("enable_hashjoin", "off", "on"),
    ("enable_mergejoin", "off", "on"),
    ("jit", "off", "off"),
    ("plan_cache_mode", "force_generic_plan", "auto"),
];

/// The server gives up when nobody waits any more, and whoever vanished in a transaction holds its
/// locks no longer than that. A statement that stands alone sees what was committed while it waited.
fn options(deadline: Duration, given: Option<&str>) -> String {
    let millis = deadline.as_millis().max(1);
    let plans = PLANS.map(|(name, by_key, _)| format!(" -c {name}={by_key}")).concat();
    let given = given.unwrap_or_default();
    format!(
        "{given} -c statement_timeout={millis} -c idle_in_transaction_session_timeout={millis} \
         -c default_transaction_isolation=read\\ committed{plans}"
    )
}

/// The error says what to do.
async fn check_encoding(client: &Object) -> Result<(), String> {
    let row = client.query_one("SHOW server_encoding", &[]).await.map_err(|e| chain(&e))?;
    match row.get(0) {
        "UTF8" => Ok(()),
        other => Err(format!(
            "its encoding is {other}: make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE \
             template0"
        )),
    }
}

pub(crate) fn unavailable(
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::unavailable("postgres", source)
}

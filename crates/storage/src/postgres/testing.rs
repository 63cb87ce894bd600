//! Databases for tests, on the server that `DUNLIN_TEST_POSTGRES` names.

use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use super::{Postgres, PostgresConfig};

const VARIABLE: &str = "DUNLIN_TEST_POSTGRES";

/// The URL of a server whose user may do everything.
pub(crate) fn server() -> String {
    std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!(
            "{VARIABLE} must name a Postgres server for tests (postgres://postgres@127.0.0.1:5432): \
             `cargo xtask test` starts one and sets it"
        )
    })
}

/// A connection beside whatever is tested.
pub(crate) async fn administrator() -> Client {
    let (client, connection) =
        tokio_postgres::connect(&server(), NoTls).await.expect("the test server");
    tokio::spawn(connection);
    client
}

/// Tables of a test's own: a schema, which is much faster to make than a database.
pub(crate) struct Place {
    pub(crate) schema: String,
}

impl Place {
    pub(crate) async fn create() -> Self {
        let schema = format!("test_{}_{:016x}", std::process::id(), fastrand::u64(..));
        let sql = format!("CREATE SCHEMA {schema}");
        administrator().await.batch_execute(&sql).await.expect("a schema");
        Self { schema }
    }

    /// By this, a hub works on these tables and can be told from others.
    pub(crate) fn config(&self) -> PostgresConfig {
        let server = server();
        let join = if server.contains('?') { '&' } else { '?' };
        let schema = &self.schema;
        let url =
            format!("{server}{join}application_name={schema}&options=-c%20search_path%3D{schema}");
        // A machine that is busy with other tests is no fault.
        let deadline = Duration::from_secs(60);
        PostgresConfig { connections: 8, deadline, ..PostgresConfig::new(url) }
    }

    pub(crate) async fn open(&self) -> Postgres {
        Postgres::open(&self.config()).await.expect("open")
    }
}

/// A database without a row, open.
pub(crate) async fn open() -> Postgres {
    Place::create().await.open().await
}

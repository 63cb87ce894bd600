//! Databases for tests.

use std::time::Duration;

use super::{Postgres, PostgresConfig};
use crate::testing;
pub(crate) use crate::testing::administrator;

/// The URL of a server whose user may do everything.
pub(crate) fn server() -> String {
    testing::variable("DUNLIN_TEST_POSTGRES")
}

/// Tables of a test's own: a schema, which is much faster to make than a database.
pub(crate) struct Place {
    place: testing::Place,
    pub(crate) schema: String,
}

impl Place {
    pub(crate) async fn create() -> Self {
        let place = testing::Place::create().await;
        let schema = place.name().to_owned();
        Self { place, schema }
    }

    pub(crate) fn config(&self) -> PostgresConfig {
        // A machine that is busy with other tests is no fault.
        let deadline = Duration::from_secs(60);
        PostgresConfig { connections: 8, deadline, ..PostgresConfig::new(self.place.postgres()) }
    }

    pub(crate) async fn open(&self) -> Postgres {
        Postgres::open(&self.config()).await.expect("open")
    }
}

/// A database without a row, open.
pub(crate) async fn open() -> Postgres {
    Place::create().await.open().await
}

//! Places on real servers for tests, a place a hub: tables, keys and topics of its own. The servers
//! are those that the environment names. Tests that kill a server start one of their own here:
//! xtask, which starts the others, is built without this crate and its libraries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use ::redis::aio::MultiplexedConnection;
use ::redis::{Client, RedisResult, cmd};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::OnceCell;
use tokio::time::interval;
use tokio_postgres::NoTls;

use crate::event_log;
use crate::presence::{NODE_LEASE, Presence};

pub mod kafka;
pub mod postgres;
pub(crate) mod process;
pub mod redis;

const POSTGRES: &str = "DUNLIN_TEST_POSTGRES";
const REDIS: &str = "DUNLIN_TEST_REDIS";
const KAFKA: &str = "DUNLIN_TEST_KAFKA";

/// What every name begins with. The time of its making follows, in as many digits.
const BEGIN: &str = "hub";
const DIGITS: usize = 12;
/// No test takes so long: what is older was left by one that failed.
const OLD: Duration = Duration::from_secs(60 * 60);

/// A variable that tells of a server.
#[track_caller]
pub fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: cargo xtask test --only cargo -- … sets it"))
}

/// What a variable repeats, or else something new, which is said: it is shown when a test fails.
pub fn seeded(variable: &str) -> fastrand::Rng {
    let given = std::env::var(variable).ok();
    let given = given.map(|seed| seed.parse().unwrap_or_else(|_| panic!("{variable} is a number")));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{variable}={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Says that a node lives for as long as the test goes on.
pub fn keep_alive(presence: Arc<dyn Presence>, node: &str) {
    let node = node.to_owned();
    tokio::spawn(async move {
        let mut turn = interval(NODE_LEASE / 4);
        loop {
            turn.tick().await;
            presence.node_renew(&node).await.expect("renewed");
        }
    });
}

/// A connection beside whatever is tested.
pub(crate) async fn administrator() -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&variable(POSTGRES), NoTls).await.expect("the Postgres server");
    tokio::spawn(connection);
    client
}

/// What stands behind the URL's own options.
fn with(url: &str, options: &str) -> String {
    format!("{url}{}{options}", if url.contains('?') { '&' } else { '?' })
}

/// A place on all three servers. Its name is its schema in Postgres, which is made first and goes
/// last, and the prefix of its keys in Redis and of its topics in Kafka.
pub struct Place {
    name: String,
}

impl Place {
    /// Also removes what tests have left behind that failed long ago.
    pub async fn create() -> Self {
        static SWEPT: OnceCell<()> = OnceCell::const_new();
        SWEPT.get_or_init(sweep).await;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{BEGIN}{:0DIGITS$x}p{process}n{number}", millis());
        let sql = format!("CREATE SCHEMA {name}");
        administrator().await.batch_execute(&sql).await.expect("a schema");
        Self { name }
    }

    /// A hub on these tables can be told from others by its application name.
    pub fn postgres(&self) -> String {
        let name = &self.name;
        // Nothing in it is to outlive the server: a commit need not wait for its disk.
        let settings = format!("-c search_path={name} -c synchronous_commit=off");
        let settings = utf8_percent_encode(&settings, NON_ALPHANUMERIC);
        with(&variable(POSTGRES), &format!("application_name={name}&options={settings}"))
    }

    pub fn redis(&self) -> String {
        with(&variable(REDIS), &format!("prefix={}", self.name))
    }

    pub fn kafka(&self) -> String {
        with(&variable(KAFKA), &format!("prefix={}", self.name))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Once nobody uses it any more.
    pub async fn remove(self) {
        let topics = self.topics().await;
        if !topics.is_empty() {
            event_log::topics_remove(&self.kafka(), &topics).await.expect("its topics go");
        }
        self.remove_keys().await.expect("its keys go");
        let sql = format!("DROP SCHEMA {} CASCADE", self.name);
        administrator().await.batch_execute(&sql).await.expect("its schema goes");
    }

    async fn topics(&self) -> Vec<String> {
        event_log::topics(&self.kafka()).await.expect("Kafka's topics")
    }

    /// All that Redis keeps here, and a connection to it.
    async fn keys(&self) -> RedisResult<(MultiplexedConnection, Vec<String>)> {
        let url = variable(REDIS);
        let server = url.split('?').next().unwrap_or_default();
        let mut connection = Client::open(server)?.get_multiplexed_async_connection().await?;
        let pattern = format!("{}:*", self.name);
        let keys = cmd("KEYS").arg(pattern).query_async(&mut connection).await?;
        Ok((connection, keys))
    }

    /// As a flush would.
    pub async fn remove_keys(&self) -> RedisResult<()> {
        let (mut connection, keys) = self.keys().await?;
        if keys.is_empty() {
            return Ok(());
        }
        cmd("UNLINK").arg(keys).exec_async(&mut connection).await
    }
}

async fn sweep() {
    let sql = "SELECT nspname FROM pg_namespace WHERE nspname ~ $1";
    let pattern = format!("^{BEGIN}[0-9a-f]{{{DIGITS}}}p");
    let found = administrator().await.query(sql, &[&pattern]).await.expect("schemas");
    for row in found {
        let place = Place { name: row.get(0) };
        let made = place.name.get(BEGIN.len()..BEGIN.len() + DIGITS).unwrap_or_default();
        let made = u128::from_str_radix(made, 16).expect("a number");
        if made + OLD.as_millis() < millis() {
            place.remove().await;
        }
    }
}

fn millis() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a time after 1970").as_millis()
}

#[cfg(test)]
mod tests {
    use dunlin_model::Identity;

    use super::*;
    use crate::device_store::{DeviceStore, PostgresDeviceStore};
    use crate::event_log::{KafkaLog, KafkaLogConfig};
    use crate::postgres::{Postgres, PostgresConfig};
    use crate::presence::RedisPresence;

    /// How many schemas, keys and topics there are of it.
    async fn found(place: &Place) -> (i64, usize, usize) {
        let sql = "SELECT count(*) FROM pg_namespace WHERE nspname = $1";
        let row = administrator().await.query_one(sql, &[&place.name]).await.expect("schemas");
        let keys = place.keys().await.expect("keys").1.len();
        (row.get(0), keys, place.topics().await.len())
    }

    async fn used(place: &Place) {
        let postgres = Postgres::open(&PostgresConfig::new(place.postgres())).await.expect("open");
        let devices: Arc<dyn DeviceStore> = Arc::new(PostgresDeviceStore::new(&postgres));
        let presence = RedisPresence::open(&place.redis(), devices).await.expect("open");
        let id = Identity::device("d").expect("an id");
        presence.claim(&id, "node", 1).await.expect("claimed");
        KafkaLog::open(&place.kafka(), KafkaLogConfig::default()).await.expect("open");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_place_goes_with_all_that_is_in_it() {
        let (place, other) = (Place::create().await, Place::create().await);
        used(&place).await;
        used(&other).await;
        assert_eq!((found(&place).await, found(&other).await), ((1, 1, 1), (1, 1, 1)));
        let name = place.name.clone();
        place.remove().await;
        assert_eq!((found(&Place { name }).await, found(&other).await), ((0, 0, 0), (1, 1, 1)));
        other.remove().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_old_is_swept_away_and_nothing_else() {
        let young = Place::create().await;
        let made = millis() - OLD.as_millis() - 1;
        let old = Place { name: format!("{BEGIN}{made:0DIGITS$x}p1n{}", std::process::id()) };
        let sql = format!("CREATE SCHEMA {}", old.name);
        administrator().await.batch_execute(&sql).await.expect("a schema");
        used(&old).await;
        sweep().await;
        assert_eq!((found(&old).await, found(&young).await), ((0, 0, 0), (1, 0, 0)));
        young.remove().await;
    }
}

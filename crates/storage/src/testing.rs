//! Places on real servers for tests, a place a hub: tables, keys and topics of its own. The servers
//! are those that the environment names.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::event_log;

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

/// A connection beside whatever is tested.
pub(crate) async fn administrator() -> Client {
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
        let options = format!("application_name={name}&options=-c%20search_path%3D{name}");
        with(&variable(POSTGRES), &options)
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
        event_log::remove(&self.kafka()).await.expect("its topics go");
        self.remove_keys().await.expect("its keys go");
        let sql = format!("DROP SCHEMA {} CASCADE", self.name);
        administrator().await.batch_execute(&sql).await.expect("its schema goes");
    }

    /// All that Redis keeps here, as a flush would.
    pub async fn remove_keys(&self) -> redis::RedisResult<()> {
        let url = variable(REDIS);
        let server = url.split('?').next().unwrap_or_default();
        let mut connection =
            redis::Client::open(server)?.get_multiplexed_async_connection().await?;
        let pattern = format!("{}:*", self.name);
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await?;
        if !keys.is_empty() {
            redis::cmd("UNLINK").arg(keys).exec_async(&mut connection).await?;
        }
        Ok(())
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

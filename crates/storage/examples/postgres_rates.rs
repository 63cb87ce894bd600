//! Reported patches and C2D messages a second on Postgres, by so many callers at a time:
//! `cargo run --release -p dunlin-storage --example postgres_rates -- URL CALLERS SECONDS`.
//! pgbench beside it (`-M prepared`) says what single-row statements do on the same server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dunlin_model::command::{Disposition, LockToken};
use dunlin_model::twin::{Limits, Report};
use dunlin_model::{Command, Identity};
use dunlin_storage::command_queue::{PostgresCommandQueue, conformance};
use dunlin_storage::device_store::PostgresDeviceStore;
use dunlin_storage::device_store::conformance::sample;
use dunlin_storage::postgres::{Postgres, PostgresConfig};
use dunlin_storage::twin_store::PostgresTwinStore;
use dunlin_storage::{CommandQueue, DeviceStore, StoreError, TwinStore};
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("URL CALLERS SECONDS");
    let (url, callers, seconds) = (next()?, next()?.parse()?, next()?.parse()?);
    let postgres = Postgres::open(&PostgresConfig::new(url)).await?;
    let devices: Arc<dyn DeviceStore> = Arc::new(PostgresDeviceStore::new(&postgres));
    for caller in 0..callers {
        match devices.identity_create(sample(&device(caller))).await {
            Ok(()) | Err(StoreError::AlreadyExists) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let twins = Arc::new(PostgresTwinStore::new(&postgres));
    let report = move |caller, n: usize| {
        let twins = Arc::clone(&twins);
        async move {
            let patch = format!("{{\"temperature\":{n}}}");
            let report = Report::read(patch.as_bytes(), None, &Limits::default())?;
            let id = Identity::device(&device(caller))?;
            twins.twin_report(&id, report, conformance::NOW, &Limits::default()).await?;
            Ok(())
        }
    };
    measure("reported patches", &postgres, callers, seconds, report).await?;
    let queue = Arc::new(PostgresCommandQueue::new(&postgres));
    let send = move |caller, n: usize| {
        let queue = Arc::clone(&queue);
        async move {
            let (device, rules, now) = (device(caller), conformance::rules(), conformance::NOW);
            let body = vec![b'x'; 256];
            let command = Command { body, ..conformance::command(&n.to_string()) };
            queue.command_send(&device, command, now, &rules).await?;
            let token = LockToken::from_bytes((n as u128).to_be_bytes());
            queue.command_lease(&device, 1, vec![token], usize::MAX, now, &rules).await?;
            let complete = Disposition::Complete;
            queue.command_settle(&device, 1, &[token], complete, now, &rules).await?;
            Ok(())
        }
    };
    measure("C2D messages sent, taken, completed", &postgres, callers, seconds, send).await
}

fn device(caller: usize) -> String {
    format!("rates-{caller}")
}

async fn measure<F>(
    what: &str,
    postgres: &Postgres,
    callers: usize,
    seconds: u64,
    call: impl Fn(usize, usize) -> F + Clone + Send + 'static,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>> + Send,
{
    let trips = |postgres: &Postgres| postgres.round_trips().values().sum::<u64>();
    let (before, end) = (trips(postgres), Instant::now() + Duration::from_secs(seconds));
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let call = call.clone();
        running.spawn(async move {
            let mut done = 0;
            while Instant::now() < end {
                call(caller, done).await?;
                done += 1;
            }
            Ok::<_, Failure>(done)
        });
    }
    let mut done = 0;
    while let Some(one) = running.join_next().await {
        done += one??;
    }
    let trips = trips(postgres) - before;
    eprintln!("{what}: {} a second, {trips} round trips for {done}", done as u64 / seconds);
    Ok(())
}

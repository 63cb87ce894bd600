//! Reported patches and C2D messages a second on Postgres, by so many callers at a time:
//! `cargo run --release -p dunlin-storage --example postgres_rates -- URL CALLERS SECONDS [twin|c2d]`.
//! pgbench beside it (`-M prepared`) says what single-row statements do on the same server.
//! Processor time is that of this process; the server's is told by `ps`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dunlin_model::command::{Ack, Disposition, LockToken};
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
    let only = next().ok();
    let wanted = |what| only.as_deref().is_none_or(|only| only == what);
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
    if wanted("twin") {
        measure("reported patches", &postgres, callers, seconds, report).await?;
    }
    let queue = Arc::new(PostgresCommandQueue::new(&postgres));
    let send = move |caller, n: usize| {
        let queue = Arc::clone(&queue);
        async move {
            let (device, rules, now) = (device(caller), conformance::rules(), conformance::NOW);
            let (body, ack) = (vec![b'x'; 64], Ack::None);
            let command = Command { body, ack, ..conformance::command(&n.to_string()) };
            queue.command_send(&device, command, now, &rules).await?;
            let token = LockToken::from_bytes((n as u128).to_be_bytes());
            queue.command_lease(&device, 1, vec![token], usize::MAX, now, &rules).await?;
            let complete = Disposition::Complete;
            queue.command_settle(&device, 1, &[token], complete, now, &rules).await?;
            Ok(())
        }
    };
    if wanted("c2d") {
        measure("C2D messages sent, taken, completed", &postgres, callers, seconds, send).await?;
    }
    Ok(())
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
    let (before, cpu_before) = (trips(postgres), cpu()?);
    let end = Instant::now() + Duration::from_secs(seconds);
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
    let (trips, each) = (trips(postgres) - before, (cpu()? - cpu_before) * 1e6 / done as f64);
    let rate = done as u64 / seconds;
    eprintln!("{what}: {rate} a second, {trips} round trips for {done}, {each:.1} µs of CPU each");
    Ok(())
}

/// CPU seconds of this process: user and system, in ticks of 10 ms.
fn cpu() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

//! The same operations at random on Kafka and on segment files: nobody can tell which is which.

use super::*;
use crate::event_log::{SegmentLog, SegmentLogConfig, Token};
use crate::sqlite::DataFolder;
use crate::testing::seeded;

const STEPS: usize = 150;
const GROUPS: [&str; 3] = ["a", "b", "$Default"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_and_segments_agree() {
    let mut rng = seeded("DUNLIN_EVENTS_SEED");
    let folder = tempfile::tempdir().expect("a folder");
    let data = DataFolder::open(folder.path().join("data")).expect("a data folder");
    let config = SegmentLogConfig { retention_age: Duration::MAX, ..SegmentLogConfig::default() };
    let segment =
        SegmentLog::open(&folder.path().join("log"), data.sqlite(), config).expect("open");
    let kafka = open(&of_the_run()).await;
    let logs: [&dyn EventLog; 2] = [&segment, &kafka];
    for step in 0..STEPS {
        let partition = rng.u32(0..5);
        let offset = rng.u64(0..60);
        match rng.u32(0..6) {
            0 | 1 => append(&mut rng, logs).await,
            2 => {
                let [one, two] =
                    both(logs, async |log| log.range(TOPIC_D2C, partition).await).await;
                assert_eq!(one, two, "step {step}: range of {partition}");
            }
            3 => {
                let position = match rng.u32(0..4) {
                    0 => Position::Earliest,
                    1 => Position::Latest,
                    2 => Position::Offset(offset),
                    _ => Position::Time(rng.i64(-3..120)),
                };
                let seek =
                    async |log: &dyn EventLog| log.seek(TOPIC_D2C, partition, position).await;
                let [one, two] = both(logs, seek).await;
                assert_eq!(one, two, "step {step}: {position:?} of {partition}");
            }
            4 => {
                let records = rng.usize(1..40);
                let limit = ReadLimit { records, bytes: usize::MAX };
                let read = async |log: &dyn EventLog| {
                    log.read(TOPIC_D2C, partition, offset, limit, Duration::ZERO).await
                };
                let [one, two] = both(logs, read).await;
                assert_eq!(one, two, "step {step}: {records} of {partition} from {offset}");
            }
            _ => {
                let group = GROUPS[rng.usize(0..3)];
                if rng.bool() {
                    let next = [(rng.u32(0..4), rng.u64(0..1_000))];
                    let commit =
                        async |log: &dyn EventLog| log.group_commit(TOPIC_D2C, group, &next).await;
                    let [one, two] = both(logs, commit).await;
                    assert_eq!(one, two, "step {step}: commit of {group}");
                }
                let read = async |log: &dyn EventLog| log.group_positions(TOPIC_D2C, group).await;
                let [one, two] = both(logs, read).await;
                assert_eq!(one, two, "step {step}: positions of {group}");
            }
        }
    }
}

async fn both<T>(
    logs: [&dyn EventLog; 2],
    ask: impl AsyncFn(&dyn EventLog) -> Result<T, crate::StoreError>,
) -> [Result<T, String>; 2] {
    let [one, two] = logs;
    let one = ask(one).await.map_err(|error| chain(&error));
    [one, ask(two).await.map_err(|error| chain(&error))]
}

async fn append(rng: &mut fastrand::Rng, logs: [&dyn EventLog; 2]) {
    let count = rng.usize(1..12);
    let drawn: Vec<_> = (0..count)
        .map(|_| {
            let key = format!("device-{}", rng.u32(0..9));
            let body: Vec<u8> = (0..rng.usize(0..200)).map(|_| rng.u8(..)).collect();
            let value = rng.bool().then(|| "v".repeat(rng.usize(0..9)));
            (key, body, value, rng.i64(1..100))
        })
        .collect();
    for log in logs {
        let collector = Collector::new();
        let sink: Arc<dyn Completions> = collector.clone();
        for (n, (key, body, value, enqueued)) in (0..).zip(&drawn) {
            let header = [Header { name: "name", value: value.as_deref() }];
            let headers = &header[..usize::from(n % 3 > 0)];
            let record = Record { key: key.as_bytes(), headers, body, enqueued: *enqueued };
            let token = Token { connection: 0, sequence: n };
            log.append(TOPIC_D2C, record, token, Some(&sink)).expect("room");
        }
        assert!(collector.wait(count).await.iter().all(|c| c.durable));
    }
}

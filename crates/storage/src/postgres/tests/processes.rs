//! Several processes on the same devices.

use dunlin_model::command::{Disposition, LockToken};

use super::*;
use crate::device_store::IfMatch;

/// Batches of two processes with the same devices, each asked for in another order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_lose_nothing_of_each_other() {
    const DEVICES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    const ROUNDS: u64 = 20;
    let place = Place::create().await;
    let one = Arc::new(Stores::on(place.open().await));
    let other = Arc::new(Stores::on(place.open().await));
    one.create(&DEVICES).await;
    let processes = [(one, false), (Arc::clone(&other), true)].map(|(stores, backwards)| {
        tokio::spawn(async move {
            let mut versions = Vec::new();
            for n in 0..ROUNDS {
                let mut devices = DEVICES;
                if backwards {
                    devices.reverse();
                }
                let reports = devices.map(async |device| {
                    let version = stores.report(device, n).await.expect("report");
                    let id = if backwards { format!("back {n}") } else { format!("forth {n}") };
                    let sent = stores.queue.command_send(device, command(&id), NOW, &rules()).await;
                    (device, version, sent.expect("send"))
                });
                versions.extend(join_all(reports).await);
            }
            versions
        })
    });
    let mut all = Vec::new();
    for process in processes {
        all.extend(process.await.expect("joined"));
    }
    for device in DEVICES {
        let of = all.iter().filter(|(of, ..)| *of == device);
        let (mut versions, mut places): (Vec<_>, Vec<_>) =
            of.map(|(_, version, place)| (*version, *place)).unzip();
        versions.sort_unstable();
        places.sort_unstable();
        assert_eq!(versions, (2..2 + 2 * ROUNDS).collect::<Vec<_>>(), "{device}");
        assert_eq!(places, (1..=2 * ROUNDS).collect::<Vec<_>>(), "{device}");
    }
}

/// Devices come and go while another process has to do with them: nothing is left of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_takes_all_along_whatever_is_under_way() {
    let place = Place::create().await;
    let one = Stores::on(place.open().await);
    let other = Stores::on(place.open().await);
    let devices: Vec<_> = (0..6).map(|n| format!("d{n}")).collect();
    let passing = |outcome: Result<(), StoreError>| match outcome {
        Ok(()) | Err(StoreError::NotFound | StoreError::PreconditionFailed) => {}
        Err(error) => panic!("{error:?}"),
    };
    let rules = rules();
    let used = join_all(devices.iter().map(async |device| {
        for n in 0..60u128 {
            let token = LockToken::from_bytes((n + 1).to_be_bytes());
            passing(other.report(device, 1).await.map(drop));
            let state = ConnectionReport::State {
                id: id(device),
                generation_id: format!("generation of {device}"),
                epoch: 1,
                state: dunlin_model::ConnectionState::default(),
                node: "n".into(),
            };
            passing(other.devices.connections_record(vec![state]).await.map(drop));
            let sent = other.queue.command_send(device, command("1"), NOW, &rules).await;
            passing(sent.map(drop));
            let tokens = vec![token];
            let lease = other.queue.command_lease(device, 1, tokens, usize::MAX, NOW, &rules);
            passing(lease.await.map(drop));
            let end = if n % 2 == 0 { Disposition::Complete } else { Disposition::Reject };
            let settled = other.queue.command_settle(device, 1, &[token], end, NOW, &rules).await;
            passing(settled.map(drop));
            // Another device's feedback is in the same batches.
            passing(other.queue.feedback_lease(token, NOW, &rules.feedback).await.map(drop));
        }
    }));
    let come_and_go = async {
        for _ in 0..15 {
            for device in &devices {
                one.create(&[device, &format!("{device}/m")]).await;
            }
            for device in &devices {
                let deleted = one.devices.identity_delete(&id(device), IfMatch::Any).await;
                deleted.expect("deleted");
            }
        }
    };
    tokio::join!(used, come_and_go);
    for table in ["identity", "device_state", "twin", "command_queue", "command", "feedback"] {
        let sql = format!("SELECT count(*) FROM {}.{table}", place.schema);
        let left: i64 = administrator().await.query_one(&sql, &[]).await.expect("count").get(0);
        assert_eq!(left, 0, "{table}");
    }
}

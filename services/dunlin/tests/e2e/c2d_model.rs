//! C2D end to end beside a model: a back end and three devices, by MQTT and by HTTPS, do at random
//! and at one time what they may; connections are lost and taken over, the clock is set forward and
//! back, and the hub is started again and again. Its queue is watched (`conformance::Watch`). In the
//! end each message has ended once, and those outside have seen what the queue did.
//!
//! `DUNLIN_C2D_SEED` (random, printed) draws the same again, which may meet otherwise then.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use dunlin::config::Config;
use dunlin::hub::Stores;
use dunlin::test_hub::{Setup, TestHub};
use dunlin_runtime::Clock;
use dunlin_runtime::clock::unix_millis;
use dunlin_storage::command_queue::conformance::Watch;
pub use dunlin_storage::command_queue::conformance::rules;
use dunlin_storage::testing::seeded;

use crate::c2d_model_back_end::BackEnd;
use crate::c2d_model_device::Client;

/// How often the hub is started, and what each of them does meanwhile.
const LIVES: usize = 4;
const STEPS: usize = 100;

pub const DEVICES: [&str; 3] = ["a", "b", "c"];
/// How much of what they do is by HTTPS, in a hundred.
const BY_REQUEST: [u32; 3] = [0, 20, 90];

in_every_way!(every_message_ends_once, super::super::whatever_happens, all_in_one, split);

/// The hub's time, and the latest that it was.
#[derive(Clone)]
pub struct Time(Arc<[AtomicI64; 2]>);

impl Time {
    pub fn now(&self) -> i64 {
        self.0[0].load(Ordering::SeqCst)
    }

    pub fn latest(&self) -> i64 {
        self.0[1].load(Ordering::SeqCst)
    }

    pub fn step(&self, millis: i64) {
        let before = self.0[0].fetch_add(millis, Ordering::SeqCst);
        self.0[1].fetch_max(before + millis, Ordering::SeqCst);
    }
}

fn settings(config: &mut Config) {
    config.c2d.depth = 6;
    config.c2d.max_delivery_count = rules().max_delivery_count;
    config.c2d.feedback_batch_records = 4;
    // What is dropped unread could not be compared.
    config.c2d.feedback_ttl_seconds = 172_800;
    config.c2d.feedback_max_delivery_count = 100;
}

async fn whatever_happens(setup: Setup) {
    let mut random = seeded("DUNLIN_C2D_SEED");
    let time = Time(Arc::new([unix_millis(); 2].map(AtomicI64::new)));
    let watch = Watch::default();
    let setup = {
        let (time, watch) = (time.clone(), watch.clone());
        let over = move |stores: Stores| Stores { commands: watch.over(stores.commands), ..stores };
        let clock = Clock::new(move || time.now());
        Setup { edit: Box::new(settings), clock, stores: Box::new(over), ..setup }
    };
    let mut hub = TestHub::start(setup).await;
    let mut back_end = BackEnd::new(time.clone(), random.fork());
    let mut devices = Vec::new();
    for (id, by_request) in DEVICES.into_iter().zip(BY_REQUEST) {
        devices.push(Client::create(&hub, id, by_request, random.fork()).await);
    }
    for life in 0..LIVES {
        let [a, b, c] = &mut devices[..] else { unreachable!("three") };
        tokio::join!(
            back_end.run(&hub, STEPS),
            a.run(&hub, STEPS),
            b.run(&hub, STEPS),
            c.run(&hub, STEPS),
        );
        if life % 2 == 0 {
            // What is locked comes back, and nobody asks for it.
            back_end.let_locks_end();
        }
        for device in &mut devices {
            device.come_to_rest(&watch, &time).await;
        }
        hub = hub.restart().await;
    }
    back_end.let_locks_end();
    for device in &mut devices {
        device.finish(&hub).await;
    }
    back_end.finish(&hub, &watch).await;
    hub.stop().await;
    let model = watch.model().await;
    back_end.tell(&model);
    model.must_be_done();
    back_end.check(&model);
    devices.iter().for_each(|device| device.check(&model));
}

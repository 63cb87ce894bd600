//! The hub from outside, over real sockets: every scenario runs on all roles in one process and on
//! roles that call one another over the network.

/// `async fn name(hub: &TestHub)` becomes the tests `name::all_in_one` and `name::split`.
macro_rules! scenario {
    ($name:ident) => {
        mod $name {
            use dunlin::test_hub::TestHub;

            #[tokio::test(flavor = "multi_thread")]
            async fn all_in_one() {
                let hub = TestHub::all_in_one().await;
                super::$name(&hub).await;
                hub.stop().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn split() {
                let hub = TestHub::split().await;
                super::$name(&hub).await;
                hub.stop().await;
            }
        }
    };
}

mod admin;
mod cli;
mod events;
mod kill;
mod mqtt_alive;
mod mqtt_auth;
mod mqtt_connect;
mod mqtt_faults;
mod mqtt_kit;
mod mqtt_log;
mod mqtt_malformed;
mod mqtt_order;
mod mqtt_packets;
mod mqtt_publish;
mod mqtt_rules;
mod mqtt_size;
mod mqtt_takeover;
mod mqtt_will;
mod process;
mod raw;
mod registry;
mod revocation;
mod tls;

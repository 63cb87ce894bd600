//! The hub from outside, over real sockets: every scenario runs on all roles in one process and on
//! roles that call one another over the network, on embedded stores and on servers.

/// Tests of `$run`, an async function of a `Setup`: one in each shape on each kind of stores.
macro_rules! in_every_way {
    ($name:ident, $run:expr, $($shape:ident),+) => {
        mod $name {
            $(mod $shape {
                use dunlin::test_hub::Setup;

                #[tokio::test(flavor = "multi_thread")]
                async fn embedded() {
                    $run(Setup::$shape()).await;
                }

                #[tokio::test(flavor = "multi_thread")]
                async fn on_servers() {
                    $run(Setup::$shape().on_servers()).await;
                }
            })+
        }
    };
}

/// `async fn name(hub: &TestHub)` becomes the tests `name::all_in_one::embedded`, `…::on_servers`,
/// `name::split::embedded` and `…::on_servers`; with a shape after its name, those of that shape.
macro_rules! scenario {
    ($name:ident) => {
        scenario!($name, all_in_one, split);
    };
    ($name:ident, $($shape:ident),+) => {
        in_every_way!(
            $name,
            (async |setup| {
                let hub = dunlin::test_hub::TestHub::start(setup).await;
                super::super::$name(&hub).await;
                hub.stop().await;
            }),
            $($shape),+
        );
    };
}

mod admin;
mod c2d_api;
mod c2d_delivery;
mod c2d_kit;
mod c2d_model;
mod c2d_model_back_end;
mod c2d_model_device;
mod cli;
mod cli_c2d;
mod cli_identity;
mod cli_monitor;
mod cli_simulate;
mod cli_twin;
mod dead_gateways;
mod drain;
mod events;
mod front_door;
mod hostile_bodies;
mod hostile_flood;
mod hostile_kit;
mod hostile_mqtt;
mod hostile_requests;
mod hostile_secrets;
mod hostile_slow;
mod hostile_web;
mod https_commands;
mod https_requests;
mod https_telemetry;
mod kill;
mod kill_back_ends;
mod kill_commands;
mod kill_device;
mod kill_ledger;
mod kill_receiver;
mod kill_traffic;
mod mesh_tls;
mod method_api;
mod method_kit;
mod methods;
mod methods_payload;
mod metrics;
mod moving;
mod moving_kit;
mod moving_refused;
mod mqtt_alive;
mod mqtt_auth;
mod mqtt_commands;
mod mqtt_commands_again;
mod mqtt_connect;
mod mqtt_faults;
mod mqtt_kit;
mod mqtt_log;
mod mqtt_malformed;
mod mqtt_order;
mod mqtt_packets;
mod mqtt_publish;
mod mqtt_rules;
mod mqtt_sessions;
mod mqtt_size;
mod mqtt_takeover;
mod mqtt_twin;
mod mqtt_will;
mod observed_kit;
mod otlp;
mod parts;
mod process;
mod raw;
mod registry;
mod registry_bulk;
mod registry_connections;
mod registry_edge;
mod registry_permissions;
mod registry_policies;
mod registry_scale;
mod revocation;
mod round_trips;
mod servers_kit;
mod tls;
mod traces;
mod twin_api;
mod twin_clients;
mod twin_history;
mod twin_model;
mod websocket;
mod websocket_frames;
mod websocket_handshake;
mod websocket_kit;
mod x509;
mod x509_ca;
mod x509_kit;

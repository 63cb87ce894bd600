//! Traces: what the hub does for a device or a back end is one trace from the gateway to the store,
//! in one process and across several; and whoever receives them or does not, nobody notices.

use dunlin::test_hub::{Setup, TestHub};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::net::TcpListener;

use crate::observed_kit::{CALLER, PAYLOADS, day};
use crate::otlp::{Receiver, Span};
use crate::raw::within;

fn traced(setup: Setup, endpoint: String, sample_ratio: f64) -> Setup {
    let edit = Box::new(move |config: &mut dunlin::config::Config| {
        config.telemetry.otlp_endpoint.clone_from(&endpoint);
        config.telemetry.sample_ratio = sample_ratio;
    });
    Setup { edit, ..setup }
}

in_every_way!(
    each_request_is_one_trace,
    super::super::each_request_is_one_trace,
    all_in_one,
    split
);
async fn each_request_is_one_trace(setup: Setup) {
    let together = setup.nodes.len() == 1;
    // The roles of the process that has this one.
    let process = |role: &'static str| match together {
        true => "gateway,registry,twins,methods,c2d,api",
        false => role,
    };
    let receiver = Receiver::start().await;
    let hub = TestHub::start(traced(setup, format!("http://{}", receiver.address), 1.0)).await;
    let owner = hub.owner_connection_string().key.to_base64();
    let (device, token) = day(&hub).await;
    // What is left is sent at the end.
    hub.stop().await;
    let spans = receiver.spans();

    // Both sides of a call, then what the other does for it.
    let path = |steps: &[(&'static str, &'static str)]| {
        let names: Vec<_> = steps.iter().map(|(_, name)| *name).collect();
        let path = spans.path(&names);
        for (one, (role, name)) in path.iter().zip(steps) {
            assert_eq!(one.roles, process(role), "{name}");
        }
        path.into_iter().cloned().collect::<Vec<_>>()
    };
    let kinds = |path: &[Span]| path.iter().map(|one| one.span.kind()).collect::<Vec<_>>();
    use SpanKind::{Client, Consumer, Server};

    let report = path(&[
        ("gateway", "twin report"),
        ("gateway", "dunlin.v1.Twins/UpdateReported"),
        ("twins", "dunlin.v1.Twins/UpdateReported"),
        ("twins", "twins twin_report"),
    ]);
    assert_eq!(kinds(&report), [Server, Client, Server, Client]);
    assert_eq!(report[0].attribute("device.id").as_deref(), Some("d"));
    assert_eq!(report[1].attribute("rpc.service").as_deref(), Some("dunlin.v1.Twins"));
    for side in &report[1..=2] {
        assert_eq!(side.attribute("rpc.grpc.status_code").as_deref(), Some("0"));
    }
    assert_eq!(report[3].attribute("db.operation.name").as_deref(), Some("twin_report"));

    let way_of_call = [
        ("gateway", "POST"),
        ("gateway", "POST"),
        ("api", "POST /twins/{id}/methods"),
        ("api", "dunlin.v1.Methods/InvokeMethod"),
        ("methods", "dunlin.v1.Methods/InvokeMethod"),
    ];
    let on = |more: &[(&'static str, &'static str)]| [&way_of_call, more].concat();
    path(&on(&[("methods", "presence holder")]));
    let call = path(&on(&[
        ("methods", "dunlin.v1.DeviceLink/Invoke"),
        ("gateway", "dunlin.v1.DeviceLink/Invoke"),
    ]));
    let [_, trace, parent, _] = CALLER.split('-').collect::<Vec<_>>()[..] else { panic!("four") };
    assert_eq!(
        (hex(&call[0].span.trace_id), hex(&call[0].span.parent_span_id)),
        (trace.into(), parent.into())
    );
    assert_eq!(call[2].attribute("device.id").as_deref(), Some("d"));
    assert_eq!(call[2].attribute("http.route").as_deref(), Some("/twins/{id}/methods"));
    assert_eq!(call[0].attribute("http.response.status_code").as_deref(), Some("200"));

    let sent = [
        ("gateway", "POST"),
        ("gateway", "POST"),
        ("api", "POST /dunlin/v1/devices/{id}/messages/devicebound"),
        ("api", "dunlin.v1.C2d/SendCommand"),
        ("c2d", "dunlin.v1.C2d/SendCommand"),
    ];
    let on = |more: &[(&'static str, &'static str)]| [&sent, more].concat();
    path(&on(&[("c2d", "commands command_send")]));
    // The device's gateway is told on behalf of who sends.
    path(&on(&[
        ("c2d", "dunlin.v1.DeviceLink/NotifyCommands"),
        ("gateway", "dunlin.v1.DeviceLink/NotifyCommands"),
    ]));
    for (name, call, operation) in [
        ("c2d receive", "dunlin.v1.C2d/LeaseCommands", "commands command_lease"),
        ("c2d settle", "dunlin.v1.C2d/SettleCommands", "commands command_settle"),
    ] {
        let step = path(&[("gateway", name), ("gateway", call), ("c2d", call), ("c2d", operation)]);
        assert_eq!(kinds(&step), [Consumer, Client, Server, Client]);
    }

    let authenticate = "dunlin.v1.Registry/Authenticate";
    let connect = ("gateway", "connect");
    path(&[
        connect,
        ("gateway", authenticate),
        ("registry", authenticate),
        ("registry", "devices identity_get"),
    ]);
    path(&[connect, ("gateway", "presence claim")]);
    let refused =
        spans.all.iter().find(|one| one.attribute("device.id").as_deref() == Some("nobody"));
    let refused = refused.expect("a span");
    assert!(refused.attribute("error.type").is_some());
    // The hub has not failed.
    let status = refused.span.status.clone().unwrap_or_default();
    assert_ne!(status.code(), StatusCode::Error);
    path(&[("gateway", "device request")]);
    path(&[
        ("gateway", "PUT"),
        ("gateway", "PUT"),
        ("api", "PUT /devices/{id}"),
        ("api", "dunlin.v1.Registry/CreateIdentity"),
        ("registry", "dunlin.v1.Registry/CreateIdentity"),
        ("registry", "devices identity_write"),
    ]);

    // Telemetry has no spans, nor has what the hub does by itself.
    for one in &spans.all {
        let name = &one.span.name;
        let known = ["connect", "device request", "twin report", "c2d receive", "c2d settle"];
        let root = one.span.parent_span_id.is_empty() && !known.contains(&name.as_str());
        assert!(!root || ["GET", "PUT", "POST"].contains(&name.as_str()), "{name}");
        assert!(!name.contains("d2c") && !name.contains("node_renew"), "{name}");
    }
    let text = format!("{:?}", spans.all);
    assert!(text.contains("\"device.id\""));
    let keys = [device.primary, device.secondary].map(|key| key.to_base64());
    let signature = token.split(['&', ' ']).find_map(|part| part.strip_prefix("sig="));
    let signature = signature.expect("a signature").to_owned();
    let payloads = PAYLOADS.iter().map(|payload| (*payload).to_owned());
    let more = [owner, signature, "SharedAccessSignature".to_owned(), "secret-of-the".to_owned()];
    for secret in keys.into_iter().chain(payloads).chain(more) {
        assert!(secret.len() > 8 && !text.contains(&secret), "{secret}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Only what the back end has asked to be kept.
#[tokio::test(flavor = "multi_thread")]
async fn who_calls_has_his_trace_kept_where_no_other_is() {
    let receiver = Receiver::start().await;
    let endpoint = format!("http://{}", receiver.address);
    let hub = TestHub::start(traced(Setup::split(), endpoint, 0.0)).await;
    day(&hub).await;
    hub.stop().await;
    let spans = receiver.spans();
    spans.path(&[
        "POST",
        "POST",
        "POST /twins/{id}/methods",
        "dunlin.v1.Methods/InvokeMethod",
        "dunlin.v1.Methods/InvokeMethod",
        "presence holder",
    ]);
    assert!(spans.all.iter().all(|one| CALLER.contains(&hex(&one.span.trace_id))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_or_hangs_disturbs_nobody() {
    let away = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = away.local_addr().expect("an address");
    drop(away);
    // Connections stay in its queue.
    let hanging = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    for endpoint in [address, hanging.local_addr().expect("an address")] {
        let setup = traced(Setup::all_in_one(), format!("http://{endpoint}"), 1.0);
        let hub = TestHub::start(setup).await;
        day(&hub).await;
        within("the hub's end", hub.stop()).await;
    }
}

//! Metrics: the same in one process and summed over several; the dashboard and the alerts ask for
//! none that is not there, and the list in the documentation is the list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dunlin::test_hub::TestHub;
use serde_json::Value;

use crate::observed_kit::{day, metrics_after_the_day, scraped};

/// Calls and operations of which there are as many as time allows.
const BY_ITSELF: [&str; 9] = [
    "RecordConnections",
    "connections_record",
    "LeaseCommands",
    "command_lease",
    "command_sweep",
    "node_renew",
    "ReleaseCommands",
    "command_release",
    "process_",
];

#[tokio::test(flavor = "multi_thread")]
async fn one_process_tells_the_same_as_several() {
    let mut shapes = Vec::new();
    for hub in [TestHub::all_in_one().await, TestHub::split().await] {
        day(&hub).await;
        shapes.push(metrics_after_the_day(&hub).await);
        hub.stop().await;
    }
    let [one, several] = shapes.try_into().expect("two");
    let names = |metrics: &BTreeMap<String, f64>| metrics.keys().cloned().collect::<BTreeSet<_>>();
    let difference: Vec<_> = names(&one).symmetric_difference(&names(&several)).cloned().collect();
    assert_eq!(difference, Vec::<String>::new());
    for (name, value) in &one {
        // What is counted is the same; how long it took is not, nor how many tell it.
        let counted = name.contains("_total") || name.contains("_count");
        if counted && !BY_ITSELF.iter().any(|free| name.contains(free)) {
            assert_eq!(several[name], *value, "{name}");
        }
    }
    for (name, want) in [
        ("dunlin_connects_total{protocol=\"mqtt\",outcome=\"accepted\"}", 1.0),
        ("dunlin_connects_total{protocol=\"mqtt\",outcome=\"DeviceNotFound\"}", 1.0),
        ("dunlin_d2c_messages_total", 2.0),
        ("dunlin_d2c_bytes_total", 29.0),
        ("dunlin_d2c_durable_seconds_count{protocol=\"mqtt\"}", 1.0),
        ("dunlin_d2c_durable_seconds_count{protocol=\"https\"}", 1.0),
        ("dunlin_d2c_full_total", 0.0),
        ("dunlin_d2c_failed_total", 0.0),
        ("dunlin_d2c_pending_bytes", 0.0),
        ("dunlin_device_request_seconds_count{operation=\"events\",status=\"204\"}", 1.0),
        ("dunlin_method_call_seconds_count{outcome=\"answered\"}", 1.0),
        ("dunlin_c2d_messages_total{event=\"sent\"}", 1.0),
        ("dunlin_c2d_messages_total{event=\"delivered\"}", 1.0),
        ("dunlin_presence_up", 1.0),
        ("dunlin_ready{role=\"gateway\"}", 1.0),
        (
            "dunlin_api_request_seconds_count{method=\"POST\",route=\"/twins/{id}/methods\",status=\"200\"}",
            1.0,
        ),
        (
            "dunlin_mesh_call_seconds_count{service=\"Twins\",method=\"UpdateReported\",code=\"Ok\"}",
            1.0,
        ),
        (
            "dunlin_store_operation_seconds_count{port=\"twins\",operation=\"twin_report\",outcome=\"ok\"}",
            1.0,
        ),
    ] {
        assert_eq!(several.get(name), Some(&want), "{name}: {:#?}", several.keys());
    }
}

/// Words of an expression that begin as a metric of the hub's or of its process.
fn named_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let words =
        text.split(word).filter(|word| word.starts_with("dunlin_") || word.starts_with("process_"));
    words.map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every value of a key in a document.
fn all<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match document {
        Value::Array(items) => items.iter().for_each(|item| all(item, key, found)),
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == key => found.push(text),
                    other => all(other, key, found),
                }
            }
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_and_written_of_is_there() {
    let hub = TestHub::all_in_one().await;
    day(&hub).await;
    metrics_after_the_day(&hub).await;
    let text = scraped(&hub).await.concat();
    hub.stop().await;
    // As they are declared, and as they are asked for.
    let mut declared = BTreeSet::new();
    let mut told = BTreeSet::new();
    for line in text.lines() {
        if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        {
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            told.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
            let listed = if kind == "histogram" { "" } else { suffixes[0] };
            declared.insert(format!("{name}{listed}"));
        }
    }
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dunlin.json")).expect("JSON");
    let (mut asked, mut count) = (Vec::new(), 0);
    all(&dashboard, "expr", &mut asked);
    all(&dashboard, "query", &mut asked);
    let alerts = read("deploy/prometheus/alerts.yaml");
    asked.push(&alerts);
    for expression in asked {
        for name in named_in(expression) {
            count += 1;
            assert!(told.contains(&name), "there is no {name}, which is asked for: {expression}");
        }
    }
    assert!(count > 20, "{count}");
    assert!(!told.contains("dunlin_no_such_total"));
    let listed: BTreeSet<_> = read("docs/observability.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned))
        .filter(|name| name.starts_with("dunlin_") || name.starts_with("process_"))
        .collect();
    assert_eq!(listed, declared);
}

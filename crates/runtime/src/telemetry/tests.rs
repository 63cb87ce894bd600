//! Settings, and what passes from span to headers and back.

use super::*;

fn open(otlp_endpoint: &str, sample_ratio: f64) -> Result<Telemetry, TelemetryError> {
    let config = TelemetryConfig { otlp_endpoint: otlp_endpoint.to_owned(), sample_ratio };
    Telemetry::open(&config, "here", &[crate::Role::Api])
}

#[tokio::test]
async fn settings_have_their_bounds() {
    assert!(!open("", 1.0).expect("off").is_on());
    assert!(open("http://127.0.0.1:9", 0.0).expect("on").is_on());
    for (endpoint, ratio, says) in [
        ("http://127.0.0.1:9", 1.1, "sample_ratio is 1.1"),
        ("", f64::NAN, "sample_ratio"),
        ("127.0.0.1:4317", 1.0, "http://host:4317"),
        ("ftp://127.0.0.1", 1.0, "http://host:4317"),
        ("http://a b", 1.0, "http://host:4317"),
    ] {
        let error = open(endpoint, ratio).err().expect("refused").to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_decides_what_is_kept_and_whose_it_is() {
    let none = || (String::new(), Vec::new());
    let sent = |span: &Span| {
        let mut headers = HeaderMap::new();
        span.put_into(&mut headers);
        headers.get("traceparent").map(|value| value.to_str().expect("text").to_owned())
    };
    let telemetry = open("http://127.0.0.1:9", 0.0).expect("on");
    let mut headers = HeaderMap::new();
    // Nobody asked for a trace, and none is begun.
    assert_eq!(sent(&telemetry.received(&headers, false, none)), None);
    assert_eq!(sent(&telemetry.child(SpanKind::Client, none)), None);
    // One is begun, and not kept.
    let begun = sent(&telemetry.received(&headers, true, none)).expect("named");
    assert!(begun.ends_with("-00"), "{begun}");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let theirs = format!("00-{trace}-b7ad6b7169203331-01");
    headers.insert("traceparent", HeaderValue::try_from(&theirs).expect("a header"));
    let span = telemetry.received(&headers, false, none);
    let ours = sent(&span).expect("named");
    assert!(ours.starts_with(&format!("00-{trace}-")) && ours.ends_with("-01"), "{ours}");
    assert_ne!(ours, theirs);
    let below = async {
        let below = sent(&telemetry.child(SpanKind::Client, none)).expect("a child");
        // Also where it is spawned.
        let telemetry = telemetry.clone();
        let spawned =
            tokio::spawn(carried(
                async move { telemetry.child(SpanKind::Client, none).0.is_some() },
            ));
        assert!(spawned.await.expect("done"));
        http::Response::new(below)
    };
    let below = span.run(below).await.into_body();
    assert!(below.contains(trace) && below != ours, "{below}");
    headers.insert("traceparent", HeaderValue::from_static("00-nonsense-01"));
    assert_eq!(sent(&telemetry.received(&headers, false, none)), None);
    assert_eq!(sent(&Telemetry::default().received(&headers, true, none)), None);
}

//! Every way a call can end, and when.

use std::time::Duration;

use dunlin_model::ErrorCode::{
    ArgumentInvalid, DeviceConnectionClosedRemotely, DeviceMaximumInflightMethodExceeded,
    DeviceNotFound, DeviceNotOnline, GatewayTimeout, GenericTimeout, InvalidResponseWhileProxying,
    MessageTooLarge, ModuleNotFound, ServerBusy, ServiceUnavailable,
};

use crate::*;

/// What comes, and after how many milliseconds.
type End = (Result<(i64, &'static str), ErrorCode>, u64);

#[track_caller]
fn check(what: &str, got: (Result<(i64, String), HubError>, Duration), want: End) {
    let (result, after) = got;
    let result = match &result {
        Ok((status, payload)) => Ok((*status, payload.as_str())),
        Err(error) => Err(error.code),
    };
    let after = u64::try_from(after.as_millis()).expect("milliseconds");
    assert_eq!((result, after), want, "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_there() {
    for (method, response, connect, want) in [
        ("answer", 30, 0, (Ok((201, r#"{ "a": 1e400 }"#)), 0)),
        ("answer-29", 30, 0, (Ok((201, r#"{ "a": 1e400 }"#)), 29_000)),
        ("answer-29", 0, 0, (Ok((201, r#"{ "a": 1e400 }"#)), 29_000)),
        ("answerNothing", 5, 0, (Ok((-7, "null")), 0)),
        ("answerNonsense", 30, 0, (Err(InvalidResponseWhileProxying), 0)),
        // The caller gives up after response and connect timeout: he hears of it before, but a
        // device never has longer than the response timeout.
        ("beSilent", 30, 0, (Err(GatewayTimeout), 29_500)),
        ("beSilent", 0, 0, (Err(GatewayTimeout), 29_500)),
        ("beSilent", 5, 0, (Err(GatewayTimeout), 4_500)),
        ("beSilent", 300, 300, (Err(GatewayTimeout), 300_000)),
        ("answer-31", 30, 20, (Err(GatewayTimeout), 30_000)),
        ("disconnect-3", 30, 20, (Err(DeviceConnectionClosedRemotely), 3_000)),
        ("beBusy", 30, 20, (Err(DeviceMaximumInflightMethodExceeded), 0)),
        ("beDown", 30, 20, (Err(ServiceUnavailable), 0)),
    ] {
        let mut hub = Hub::start();
        hub.connect("d").await;
        let got = hub.invoke(call("d", method, response, connect)).await;
        check(method, got, want);
        let called = hub.called().into_iter().filter(|seen| *seen != Seen::Cancelled).count();
        assert_eq!(called, 1, "{method}: a method is never called twice");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_not_there() {
    for (id, connect, want) in [
        ("d", 0, (Err(DeviceNotOnline), 0)),
        ("d/m", 0, (Err(DeviceNotOnline), 0)),
        ("d", 20, (Err(DeviceNotOnline), 20_000)),
        ("d", 300, (Err(DeviceNotOnline), 300_000)),
        ("stranger", 0, (Err(DeviceNotFound), 0)),
        // Nobody waits for a device that does not exist.
        ("stranger", 300, (Err(DeviceNotFound), 0)),
        ("d/stranger", 300, (Err(ModuleNotFound), 0)),
        ("broken", 20, (Err(ServiceUnavailable), 0)),
        ("silent", 0, (Err(GenericTimeout), 3_000)),
    ] {
        let mut hub = Hub::start();
        // Neither another device nor the module's own device will do.
        hub.connect("other").await;
        hub.connect("d/other").await;
        let got = hub.invoke(call(id, "answer", 5, connect)).await;
        check(id, got, want);
        assert_eq!(hub.called(), []);
        assert_eq!(hub.asked.load(Ordering::Relaxed), 1, "{id}: the registry is asked once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_in_time() {
    // Looks are at 0, 0.25 and 0.75 s, then every second.
    for (method, response, want) in [
        ("answer", 30, (Ok((201, r#"{ "a": 1e400 }"#)), 10_750)),
        ("answer-39", 30, (Ok((201, r#"{ "a": 1e400 }"#)), 39_000)),
        // With 20 s for connecting: 30 s are over before the caller's 49.5 s.
        ("beSilent", 30, (Err(GatewayTimeout), 40_750)),
        ("disconnect-12", 30, (Err(DeviceConnectionClosedRemotely), 12_000)),
    ] {
        let hub = Hub::start();
        let invoke = hub.invoke(call("d", method, response, 20));
        let connect = async {
            // sleep: that is when the device connects
            sleep_until(hub.started + Duration::from_secs(10)).await;
            hub.connect("d").await;
        };
        let (got, ()) = tokio::join!(invoke, connect);
        check(method, got, want);
    }
}

/// The last look is at the end of the wait, and the answer comes before the caller gives up.
#[tokio::test(start_paused = true)]
async fn a_device_that_comes_at_the_last_moment() {
    for (method, want) in [
        ("answer", (Ok((201, r#"{ "a": 1e400 }"#)), 20_000)),
        ("beSilent", (Err(GatewayTimeout), 24_500)),
    ] {
        let hub = Hub::start();
        let invoke = hub.invoke(call("d", method, 5, 20));
        let connect = async {
            // sleep: that is when the device connects
            sleep_until(hub.started + Duration::from_millis(19_900)).await;
            hub.connect("d").await;
        };
        let (got, ()) = tokio::join!(invoke, connect);
        check(method, got, want);
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_takes_no_methods() {
    for (method, connect, want) in [
        ("subscribe-1", 0, (Err(DeviceNotOnline), 0)),
        ("subscribe-10", 9, (Err(DeviceNotOnline), 9_000)),
        ("subscribe-10", 20, (Ok((200, "true")), 10_750)),
        // Looks begin at 0, 350 and 950 ms; the second is over when the last one ends.
        ("refuseSlowly", 1, (Err(DeviceNotOnline), 1_050)),
    ] {
        let hub = Hub::start();
        hub.connect("d").await;
        let got = hub.invoke(call("d", method, 30, connect)).await;
        check(method, got, want);
    }
}

#[tokio::test(start_paused = true)]
async fn the_texts_are_those_clients_know() {
    let hub = Hub::start();
    hub.connect("d").await;
    for (id, method, want) in [
        ("d", "beSilent", "Timed out waiting for the response from device."),
        ("d/m", "answer", "Timed out waiting for device to connect."),
        ("stranger", "answer", "says the registry"),
        ("d", "disconnect", "it is gone"),
    ] {
        let error = hub.invoke(call(id, method, 5, 0)).await.0.expect_err(method);
        assert_eq!(error.message, want);
    }
}

#[tokio::test(start_paused = true)]
async fn bad_calls_reach_nobody() {
    let mut hub = Hub::start();
    hub.connect("d").await;
    let large = "1".repeat(131_073);
    for (request, want) in [
        (call("d", "a b", 30, 0), ArgumentInvalid),
        (call("d", "answer", 4, 0), ArgumentInvalid),
        (call("d", "answer", 301, 0), ArgumentInvalid),
        (call("d", "answer", 30, 301), ArgumentInvalid),
        (call("d/m/x", "answer", 30, 0), ArgumentInvalid),
        (
            v1::InvokeMethodRequest { payload: "{".into(), ..call("d", "answer", 5, 0) },
            ArgumentInvalid,
        ),
        (v1::InvokeMethodRequest { payload: large, ..call("d", "answer", 5, 0) }, MessageTooLarge),
        (v1::InvokeMethodRequest::default(), ArgumentInvalid),
    ] {
        let error = hub.invoke(request).await.0.expect_err("refused");
        assert_eq!(error.code, want, "{error}");
    }
    assert_eq!(hub.called(), []);
    let nothing = v1::InvokeMethodRequest { payload: String::new(), ..call("d", "answer", 5, 0) };
    hub.invoke(nothing).await.0.expect("answered");
    let Some(Seen::Called { payload, .. }) = hub.called().into_iter().next() else {
        panic!("not called")
    };
    assert_eq!(payload, "null");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_cancels() {
    let mut hub = Hub::start();
    hub.connect("d").await;
    let mut client = hub.client.clone();
    let invoke =
        tokio::spawn(
            async move { client.invoke_method(call("d", "answer-20", 30, 0)).await.map(drop) },
        );
    assert!(matches!(hub.calls.recv().await, Some(Seen::Called { .. })));
    invoke.abort();
    assert_eq!(hub.calls.recv().await, Some(Seen::Cancelled));
    assert!(hub.started.elapsed() < Duration::from_secs(20), "before it would have ended itself");

    // So does one that waits for the device: it is not called when it is ready.
    let mut client = hub.client.clone();
    let invoke = tokio::spawn(async move {
        client.invoke_method(call("d", "subscribe-100", 30, 300)).await.map(drop)
    });
    for _ in 0..3 {
        assert!(matches!(hub.calls.recv().await, Some(Seen::Called { .. })));
    }
    invoke.abort();
    assert!(invoke.await.expect_err("aborted").is_cancelled());
    // sleep: until the call would long have been made
    sleep_until(hub.started + Duration::from_secs(200)).await;
    assert_eq!(hub.called(), []);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_calls_wait_for_their_devices() {
    const PLACES: usize = 10_000;
    let hub = Hub::start();
    hub.connect("d").await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..=PLACES {
        let mut client = hub.client.clone();
        calls.spawn(async move { client.invoke_method(call("d/m", "answer", 30, 20)).await });
    }
    let mut refused = async || {
        let answer = calls.join_next().await.expect("a call").expect("no panic");
        from_status(&answer.expect_err("the module is not there"))
    };
    let error = refused().await;
    assert_eq!(error.code, ServerBusy, "{error}");
    // Who need not wait is served.
    check("one more", hub.invoke(call("d/m", "answer", 30, 0)).await, (Err(DeviceNotOnline), 0));
    let there = hub.invoke(call("d", "answer", 30, 20)).await;
    check("of a device that is there", there, (Ok((201, r#"{ "a": 1e400 }"#)), 0));
    for _ in 0..PLACES {
        assert_eq!(refused().await.code, DeviceNotOnline);
    }
    let again = hub.invoke(call("d/m", "answer", 30, 5)).await;
    check("places come free", again, (Err(DeviceNotOnline), 25_000));
}

#[tokio::test(start_paused = true)]
async fn settings_have_their_ranges() {
    for good in [300, 3_600] {
        let config = Config { max_response_seconds: good, ..Config::default() };
        let hub = Hub::start_with(config).expect("allowed");
        hub.connect("d").await;
        let good = i64::from(good);
        let got = hub.invoke(call("d", "beSilent", good, 0)).await;
        check("the longest", got, (Err(GatewayTimeout), good.unsigned_abs() * 1_000 - 500));
        let error = hub.invoke(call("d", "answer", good + 1, 0)).await.0.expect_err("too long");
        assert_eq!(error.message, format!("responseTimeoutInSeconds must be within [5; {good}]."));
    }
    for bad in [0, 299, 3_601] {
        let config = Config { max_response_seconds: bad, ..Config::default() };
        let error = Hub::start_with(config).err().expect("refused");
        assert!(error.to_string().contains(&format!("is {bad}")), "{error}");
    }
    for bad in [0, 8_191, 131_073] {
        let error = Hub::start_with(Config { payload_bytes: bad, ..Config::default() });
        let error = error.err().expect("refused").to_string();
        assert!(error.contains(&format!("payload_bytes is {bad}")), "{error}");
    }
}

//! Calls, what is refused, and what comes of itself: notifications and what time ends.

use ErrorCode as E;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_from_queue_to_feedback() {
    let now = Config { feedback_batch_seconds: 0, ..Config::default() };
    let hub = Hub::start(now).await;
    let sent = v1::Command {
        correlation_id: Some("c".into()),
        ack: v1::Ack::Full.into(),
        properties: vec![v1::CommandProperty { name: "n".into(), value: "v".into() }],
        body: b"body".to_vec(),
        ..command("m")
    };
    let before = unix_millis();
    assert_eq!(hub.send("d", sent.clone()).await.as_deref(), Ok("m"));
    let made = hub.send("d", v1::Command::default()).await.expect("sent");
    assert_eq!(made.len(), 36, "the hub's own: {made}");
    assert_eq!(hub.count("d").await, Ok(2));
    let leased = hub.lease(5, 9).await.expect("leased");
    let first = leased[0].command.clone().expect("a message");
    // An hour, if nobody says otherwise.
    let expires = first.expires.expect("an end") - 3_600_000;
    assert!((before..=unix_millis()).contains(&expires));
    assert_eq!(v1::Command { expires: None, ..first }, sent);
    assert_eq!((leased[0].sequence, leased[0].delivery_count), (1, 0));
    assert_eq!(leased[1].command.as_ref().and_then(|one| one.message_id.clone()), Some(made));
    let tokens = [leased[0].lock_token.as_str(), "no token", &leased[1].lock_token];
    let complete = v1::Disposition::Complete;
    assert_eq!(hub.settle(4, &tokens, complete).await, Ok(vec![false; 3]));
    assert_eq!(hub.settle(5, &tokens, complete).await, Ok(vec![true, false, true]));
    assert_eq!(hub.settle(5, &tokens, complete).await, Ok(vec![false; 3]));

    let batch = hub.feedback().await.expect("feedback");
    let [record] = &batch.records[..] else { panic!("{batch:?}") };
    let said = (&*record.original_message_id, &*record.status, &*record.device_id);
    assert_eq!(said, ("m", "Success", "d"));
    assert_eq!(record.device_generation_id, "7");
    assert_eq!(hub.feedback().await, None);
    hub.feedback_settle(&batch.lock_token, v1::Disposition::Abandon).await.expect("held");
    refused(hub.feedback_settle(&batch.lock_token, complete).await, E::DeviceMessageLockLost);
    let again = hub.feedback().await.expect("feedback");
    assert_eq!((again.delivery_count, &again.records), (1, &batch.records));
    hub.feedback_settle(&again.lock_token, complete).await.expect("held");
    refused(hub.feedback_settle("x", complete).await, E::DeviceMessageLockLost);
    assert_eq!(hub.feedback().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_counts_and_a_closed_one_does_not() {
    let twice = Config { max_delivery_count: 2, ..Config::default() };
    let hub = Hub::start(twice).await;
    hub.send("d", command("m")).await.expect("sent");
    for (epoch, lost, count) in [(1, false, 0), (2, true, 0), (3, false, 1), (4, true, 1)] {
        let leased = hub.lease(epoch, 1).await.expect("leased");
        assert_eq!(leased[0].delivery_count, count);
        hub.release(epoch, lost).await;
    }
    assert_eq!(hub.count("d").await, Ok(0), "dead-lettered");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_code() {
    let few = Config { depth: 2, ..Config::default() };
    let hub = Hub::start(few).await;
    for (id, want) in [
        ("x", E::DeviceNotFound),
        ("D", E::DeviceNotFound),
        ("", E::ArgumentInvalid),
        ("a b", E::ArgumentInvalid),
        ("d/m", E::ArgumentInvalid),
    ] {
        refused(hub.send(id, command("m")).await, want);
        refused(hub.count(id).await, want);
        refused(hub.purge(id).await, want);
    }
    let large = v1::Command { body: vec![0; 65_536], ..command("m") };
    refused(hub.send("d", large).await, E::MessageTooLarge);
    let late = v1::Command { expires: Some(1), ..command("m") };
    refused(hub.send("d", late).await, E::InvalidMessageExpiryTime);
    refused(hub.send("d", v1::Command { ack: 9, ..command("m") }).await, E::ArgumentInvalid);
    refused(hub.settle(1, &[], v1::Disposition::Unspecified).await, E::ArgumentInvalid);
    let full = v1::Command { body: vec![0; 65_535], ..command("m") };
    for _ in 0..2 {
        hub.send("d", full.clone()).await.expect("sent");
    }
    let why = refused(hub.send("d", full).await, E::DeviceMaximumQueueDepthExceeded);
    assert!(why.contains("2 messages"), "{why}");
    assert_eq!(hub.lease(7, u32::MAX).await.expect("leased").len(), 2);
    refused(hub.lease(6, 1).await, E::DeviceMessageLockLost);
    assert_eq!(hub.purge("d").await, Ok(2));
}

/// As many as there may be, of any shape, come in answers that a gateway can hold for many devices,
/// each of which says whether it is the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_handed_out_in_answers_that_fit() {
    let hub = Hub::start(Config::default()).await;
    let property = |n: u32| v1::CommandProperty {
        name: char::from_u32(0x4e00 + n).expect("a letter").into(),
        value: String::new(),
    };
    for n in 0..50 {
        let shape = match n % 5 {
            1 => command("m"),
            2.. => v1::Command { body: vec![0; 65_535], ..command("m") },
            _ => v1::Command { properties: (0..20_000).map(property).collect(), ..command("m") },
        };
        hub.send("d", shape).await.expect("sent");
    }
    let (mut got, mut more) = (0, true);
    while more {
        let answer = hub.leased(1, 50).await.expect("it fits");
        let body =
            |leased: &v1::LeasedCommand| leased.command.as_ref().map_or(0, |one| one.body.len());
        let bytes: usize = answer.commands.iter().map(body).sum();
        assert!(bytes < 3 << 16, "{bytes}");
        got += answer.commands.len();
        more = answer.more;
    }
    assert_eq!(got, 50);
    let purged = hub.purge("d").await;
    assert_eq!(purged, Ok(50));
    for n in 0..3 {
        hub.send("d", command(&n.to_string())).await.expect("sent");
    }
    for (most, more) in [(2, true), (2, false), (2, false)] {
        assert_eq!(hub.leased(1, most).await.expect("leased").more, more);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_device_is_told_also_at_the_second_attempt() {
    let mut hub = Hub::start(Config::default()).await;
    hub.send("d", command("before")).await.expect("sent");
    hub.connect().await;
    hub.send("d", command("m")).await.expect("sent");
    assert_eq!(soon(hub.told.recv()).await.as_deref(), Some("d"));
    let leased = hub.lease(1, 1).await.expect("leased");
    hub.settle(1, &[&leased[0].lock_token], v1::Disposition::Abandon).await.expect("settled");
    assert_eq!(soon(hub.told.recv()).await.as_deref(), Some("d"));
    assert!(hub.told.try_recv().is_err(), "once each");
}

/// Whichever call comes before the sweep: the device is connected, and would not ask by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_connected_device_is_told_of_what_time_gave_back() {
    for lease in [true, false] {
        let mut hub = Hub::start(Config::default()).await;
        for id in ["1", "2"] {
            hub.send("d", command(id)).await.expect("sent");
        }
        // By request, of no connection.
        assert_eq!(hub.lease(0, 2).await.map(|leased| leased.len()), Ok(2));
        hub.connect().await;
        hub.ahead.store(60_000, Ordering::SeqCst);
        match lease {
            true => assert_eq!(hub.lease(0, 1).await.map(|leased| leased.len()), Ok(1)),
            false => {
                let lost = hub.settle(0, &["no token"], v1::Disposition::Complete).await;
                assert_eq!(lost, Ok(vec![false]));
            }
        }
        assert_eq!(soon(hub.told.recv()).await.as_deref(), Some("d"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_is_told_though_nobody_asks_for_it() {
    let now = Config { feedback_batch_seconds: 0, ..Config::default() };
    let hub = Hub::start(now).await;
    let expires = Some(unix_millis() + 50);
    let short = v1::Command { expires, ack: v1::Ack::Negative.into(), ..command("m") };
    hub.send("d", short).await.expect("sent");
    let batch = soon(async {
        loop {
            if let Some(batch) = hub.feedback().await {
                break batch;
            }
            // sleep: between two looks; the caller has a deadline.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(batch.await.records[0].status, "Expired");
}

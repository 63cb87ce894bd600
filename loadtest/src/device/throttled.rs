//! A hub that asks for less, planted: who is refused for now waits, tries again, and is counted.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::*;
use crate::fleet::Schedule;
use crate::outcome::Totals;
use crate::rest::Rest;
use crate::scenario::{Backend, Does, Group, Rate, Retry, Scenario, Size, Stream};
use crate::target::Target;
use crate::{backend, identities};

const CONNECT_ACK: [u8; 2] = [0x20, 2];
const SUBSCRIBE_ACK: [u8; 8] = [0x90, 6, 0, 1, 1, 1, 1, 1];

fn one(group: Group) -> Scenario {
    Scenario { groups: vec![Group { count: 1, ..group }], ..Scenario::default() }
}

fn device(shared: &Rc<Shared>) -> Device {
    Device { shared: shared.clone(), at: (0, 0), id: "load-000000".into(), epoch: 0, ticket: None }
}

async fn listen() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Reads a packet whose length is one or two bytes.
async fn packet(stream: &mut TcpStream) -> Result<u8> {
    let first = stream.read_u8().await?;
    let low = usize::from(stream.read_u8().await?);
    let high = if low < 0x80 { 0 } else { usize::from(stream.read_u8().await?) };
    stream.read_exact(&mut vec![0; low & 0x7f | high << 7]).await?;
    Ok(first >> 4)
}

/// Answers each CONNECT with the next code; who is let in gets its subscriptions. The last
/// connection is returned, the others are closed.
async fn broker(listener: &TcpListener, codes: &[u8]) -> Result<TcpStream> {
    let mut last = None;
    for code in codes {
        drop(last.take());
        let (mut stream, _) = listener.accept().await?;
        assert_eq!(packet(&mut stream).await?, 1, "CONNECT");
        stream.write_all(&[CONNECT_ACK[0], CONNECT_ACK[1], 0, *code]).await?;
        if *code == 0 {
            assert_eq!(packet(&mut stream).await?, 8, "SUBSCRIBE");
            stream.write_all(&SUBSCRIBE_ACK).await?;
        }
        last = Some(stream);
    }
    last.context("no codes")
}

/// What is counted of a device that connects as often as there are codes.
async fn connects(retry: Option<Retry>, codes: &[u8], ups: u64) -> Result<Totals> {
    let (listener, port) = listen().await?;
    let (phase, follow) = watch::channel(Phase::Idle);
    let scenario = one(Group { retry, ..Group::default() });
    let shared = fleet::shared_with(Target::at_port(port)?, &scenario, follow)?;
    let totals = || Totals::of([&*shared.tally]);
    let serve = async {
        let _open = broker(&listener, codes).await?;
        while totals().event(Event::Up) < ups && totals().event(Event::GaveUp) == 0 {
            yield_now().await;
        }
        phase.send_replace(Phase::Stop);
        anyhow::Ok(())
    };
    let (served, ()) = tokio::join!(serve, device(&shared).live(None));
    served?;
    Ok(totals())
}

#[tokio::test]
async fn a_device_that_is_throttled_tries_again_even_without_retry() -> Result<()> {
    let totals = connects(None, &[3, 0], 1).await?;
    let connect = totals.op(Op::Connect);
    assert_eq!((connect.started, connect.done, connect.failed), (1, 1, 0));
    let events = [Event::Throttled, Event::Connected, Event::GaveUp].map(|e| totals.event(e));
    assert_eq!(events, [1, 1, 0]);
    Ok(())
}

#[tokio::test]
async fn a_device_that_is_refused_gives_up_without_retry() -> Result<()> {
    let totals = connects(None, &[5], 1).await?;
    let connect = totals.op(Op::Connect);
    assert_eq!((connect.started, connect.done, connect.failed), (1, 0, 1));
    let events = [Event::Throttled, Event::Connected, Event::GaveUp].map(|e| totals.event(e));
    assert_eq!(events, [0, 0, 1]);
    Ok(())
}

#[tokio::test]
async fn a_connect_after_a_loss_is_counted_as_another() -> Result<()> {
    let retry = Retry { first: 0.01, most: 0.01, ..Retry::default() };
    let totals = connects(Some(retry), &[0, 3, 0], 2).await?;
    let connect = totals.op(Op::Connect);
    assert_eq!((connect.started, connect.done, connect.failed), (2, 2, 0));
    let events = [Event::Throttled, Event::Connected, Event::Down].map(|e| totals.event(e));
    assert_eq!(events, [1, 1, 2]);
    Ok(())
}

/// Answers one request on each connection.
async fn hub(listener: &TcpListener, answers: &[&str]) -> Result<()> {
    for answer in answers {
        let (mut stream, _) = listener.accept().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head)?.to_lowercase();
        let length = head.split_once("content-length: ").map_or("0", |(_, rest)| rest);
        let length = length.split("\r\n").next().unwrap_or_default().parse()?;
        stream.read_exact(&mut vec![0; length]).await?;
        let answer = format!("HTTP/1.1 {answer}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

const MINUTE: Duration = Duration::from_secs(60);
const ONCE_A_MINUTE: f64 = 1.0 / 60.0;

/// Of one message a minute two are due, and no third for a long time.
fn two_turns() -> Phase {
    let start = Instant::now() - MINUTE;
    Phase::Work(Schedule { start, until: start + MINUTE * 60 })
}

#[tokio::test]
async fn a_request_that_is_throttled_is_followed_by_another() -> Result<()> {
    let (listener, port) = listen().await?;
    let (phase, follow) = watch::channel(two_turns());
    let telemetry = Stream { rate: Some(Rate::PerDevice(ONCE_A_MINUTE)), ..Stream::default() };
    let retry = Some(Retry { first: 0.01, most: 0.01, ..Retry::default() });
    let group = Group { protocol: Protocol::Https, retry, telemetry, ..Group::default() };
    let shared = fleet::shared_with(Target::hub_at_port(port)?, &one(group), follow)?;
    let serve = async {
        let served = hub(&listener, &["429 Too Many Requests", "204 No Content"]).await;
        phase.send_replace(Phase::Stop);
        served
    };
    let (served, ()) = tokio::join!(serve, device(&shared).live(None));
    served?;
    let totals = Totals::of([&*shared.tally]);
    let telemetry = totals.op(Op::Telemetry);
    assert_eq!((telemetry.started, telemetry.done, telemetry.failed), (2, 1, 1));
    assert_eq!(totals.event(Event::Throttled), 1);
    Ok(())
}

#[tokio::test]
async fn a_back_end_that_is_throttled_goes_on() -> Result<()> {
    let (listener, port) = listen().await?;
    let (phase, follow) = watch::channel(two_turns());
    let desired = Backend::of(Does::Desired, Rate::Total(ONCE_A_MINUTE), Some(1), Size::Fixed(8));
    let scenario = Scenario { backends: vec![desired], ..one(Group::default()) };
    let shared = fleet::shared_with(Target::hub_at_port(port)?, &scenario, follow)?;
    let serve = async {
        hub(&listener, &["429 Too Many Requests", "200 OK"]).await?;
        while Totals::of([&*shared.tally]).op(Op::Desired).done == 0 {
            yield_now().await;
        }
        phase.send_replace(Phase::Stop);
        anyhow::Ok(())
    };
    let run = tokio::task::LocalSet::new();
    let ran = run.run_until(backend::run(shared.clone(), 0, 1));
    let (served, ran) = tokio::join!(serve, ran);
    served.and(ran)?;
    let totals = Totals::of([&*shared.tally]);
    let desired = totals.op(Op::Desired);
    assert_eq!((desired.started, desired.done, desired.failed), (2, 1, 1));
    assert_eq!(totals.event(Event::Throttled), 1);
    Ok(())
}

#[tokio::test]
async fn identities_are_asked_for_again() -> Result<()> {
    let (listener, port) = listen().await?;
    let target = Arc::new(Target::hub_at_port(port)?);
    let plan = Plan::new(&one(Group::default()), &target, &crate::plan::Share::ALL)?;
    let rest = Rest::new(&target)?;
    let answers = ["429 Too Many Requests", "503 Service Unavailable", "200 OK"];
    let (served, created) =
        tokio::join!(hub(&listener, &answers), identities::create(&rest, &plan));
    served.and(created)
}

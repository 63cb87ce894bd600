//! Devices that do what they may not, again and again. What the hub answers is not judged: the
//! others are to notice nothing.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::Device;
use crate::link::hello;
use crate::mqtt::{self, Packet};
use crate::outcome::Event;
use crate::scenario::Misbehaviour;

/// How long a hub is given to end a connection that it should end.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two bytes of a slow loris.
const SLOW: Duration = Duration::from_secs(1);
/// More than a hub takes in one packet.
const OVERSIZE: usize = 1 << 20;

pub async fn run(device: &Device, kind: Misbehaviour) {
    let mut tries = 0;
    loop {
        device.shared.tally.count(Event::Misbehaved, 1);
        tokio::select! {
            // It ends in an error, as it should: the hub closes the connection.
            _ = timeout(PATIENCE, once(device, kind)) => {}
            () = device.stopped() => return,
        }
        tokio::select! {
            () = sleep(device.side().retry().wait(tries)) => tries += 1,
            () = device.stopped() => return,
        }
    }
}

async fn once(device: &Device, kind: Misbehaviour) -> Result<()> {
    let side = device.side();
    let target = &device.shared.plan.target;
    let port = target.mqtt_port(device.overall());
    if kind == Misbehaviour::HalfOpen {
        let mut socket = target.dial(port, device.overall()).await?;
        return closed(&mut socket).await;
    }
    if kind == Misbehaviour::NoAcks {
        return never_acknowledge(device).await;
    }
    let mut stream = target.connect(port, side.tls.as_ref(), device.overall()).await?;
    match kind {
        Misbehaviour::Garbage => {
            let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(4_096).collect();
            stream.write_all(&bytes).await?;
        }
        Misbehaviour::SlowLoris => {
            for byte in hello(target, side, &device.id, false)? {
                stream.write_all(&[byte]).await?;
                stream.flush().await?;
                sleep(SLOW).await;
            }
        }
        Misbehaviour::Oversize => {
            let mut out = hello(target, side, &device.id, false)?;
            let topic = format!("devices/{}/messages/events/", device.id);
            mqtt::publish(&mut out, &topic, Some(1), &vec![0; OVERSIZE])?;
            stream.write_all(&out).await?;
        }
        Misbehaviour::BadToken => {
            stream.write_all(&hello(target, side, &device.id, true)?).await?;
        }
        Misbehaviour::NoAcks | Misbehaviour::HalfOpen => {}
    }
    stream.flush().await?;
    closed(&mut stream).await
}

/// Waits until the server has closed the connection.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    let mut answer = [0; 256];
    while stream.read(&mut answer).await? > 0 {}
    Ok(())
}

async fn never_acknowledge(device: &Device) -> Result<()> {
    let scratch = &device.shared.scratch;
    let mut link = super::mqtt::connect(device).await?;
    loop {
        let received = link.receive(scratch, |packet| match packet {
            Packet::ConnectAck { .. } => bail!("a second CONNACK"),
            _ => Ok(()),
        });
        received.await?;
    }
}

//! One device: its connection from dialling to DISCONNECT.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fleet::{Phase, Plan};
use crate::identities;
use crate::mqtt::{self, Connect, Packet};
use crate::outcome::{Counters, Stats};
use crate::publisher::Publisher;

/// How long a device may take to get from dialling to ready.
const CONNECT: Duration = Duration::from_secs(60);

/// What the devices of one client thread share.
pub struct Shared {
    pub plan: Arc<Plan>,
    pub phase: watch::Receiver<Phase>,
    pub counters: Arc<Counters>,
    pub stats: RefCell<Stats>,
    /// Where all connections read into: an idle one holds no buffer.
    pub scratch: RefCell<Vec<u8>>,
    /// Sockets of devices that dropped their TLS state.
    pub silent: RefCell<Vec<std::net::TcpStream>>,
}

/// Runs the device with this number to its end.
pub async fn run(shared: Rc<Shared>, number: usize) {
    let id = identities::id(&shared.plan.prefix, number);
    // Boxed and gone once connected: an idle device keeps only what follows.
    let link = match Box::pin(connect(&shared, number, &id)).await {
        Ok(link) => link,
        Err(error) => {
            *shared.stats.borrow_mut().failed.entry(format!("{error:#}")).or_default() += 1;
            shared.counters.failed.fetch_add(1, Relaxed);
            return;
        }
    };
    if shared.plan.drop_tls {
        if let Ok(socket) = link.stream.into_inner().0.into_std() {
            shared.silent.borrow_mut().push(socket);
        }
        shared.counters.connected.fetch_add(1, Relaxed);
        return;
    }
    shared.counters.connected.fetch_add(1, Relaxed);
    if let Err(error) = serve(&shared, link, number, &id).await {
        *shared.stats.borrow_mut().lost.entry(format!("{error:#}")).or_default() += 1;
        shared.counters.lost.fetch_add(1, Relaxed);
    }
}

async fn connect(shared: &Shared, number: usize, id: &str) -> Result<Link> {
    let _turn = shared.plan.connecting.acquire().await?;
    let start = Instant::now();
    let opened = timeout(CONNECT, Link::open(shared, number, id)).await;
    let link = opened.map_err(|_| anyhow!("not connected within {CONNECT:?}"))??;
    shared.stats.borrow_mut().connect.record(start.elapsed());
    Ok(link)
}

/// Publishes and answers as the phases ask for, until the last of them.
async fn serve(shared: &Shared, mut link: Link, number: usize, id: &str) -> Result<()> {
    let plan = &*shared.plan;
    let mut phase = shared.phase.clone();
    let mut publisher = Publisher::new(plan, number, format!("devices/{id}/messages/events/"));
    publisher.enter(*phase.borrow_and_update());
    // Earlier than promised, so that a late timer does not cost the connection.
    let ping_every = Duration::from_secs(u64::from(plan.keep_alive)) * 3 / 4;
    let mut ping_at = Instant::now() + ping_every;
    let mut out = Vec::new();
    loop {
        let sent = publisher.fill(&mut out)?;
        shared.counters.sent.fetch_add(sent, Relaxed);
        if !out.is_empty() {
            link.send(&out).await?;
            ping_at = Instant::now() + ping_every;
            if publisher.is_busy() { out.clear() } else { out = Vec::new() }
        }
        let due = publisher.due();
        let wake =
            if ping_every.is_zero() { due } else { Some(due.unwrap_or(ping_at).min(ping_at)) };
        let on_packet = |packet| match packet {
            Packet::PublishAck { id } => {
                let mut stats = shared.stats.borrow_mut();
                if publisher.acknowledged(id, &mut stats) {
                    shared.counters.acked.fetch_add(1, Relaxed);
                }
            }
            Packet::Publish { id: Some(id) } => mqtt::publish_ack(&mut out, id),
            _ => {}
        };
        tokio::select! {
            received = link.receive(shared, on_packet) => received?,
            changed = phase.changed() => {
                changed?;
                let now = *phase.borrow_and_update();
                if let Phase::Stop = now {
                    // The server may have gone first; nothing is left to be lost.
                    let _ = link.send(&mqtt::DISCONNECT).await;
                    let _ = link.stream.shutdown().await;
                    return Ok(());
                }
                publisher.enter(now);
            }
            () = sleep_until(wake.unwrap_or(ping_at)), if wake.is_some() => {
                if !ping_every.is_zero() && ping_at <= Instant::now() {
                    out.extend_from_slice(&mqtt::PING);
                }
            }
        }
    }
}

/// A TLS connection that MQTT packets come from.
struct Link {
    stream: TlsStream<TcpStream>,
    /// The beginning of a packet whose end has not come.
    rest: Vec<u8>,
}

impl Link {
    /// Up to the last answer that a device waits for before it is ready.
    async fn open(shared: &Shared, number: usize, id: &str) -> Result<Self> {
        let plan = &*shared.plan;
        let target = &plan.target;
        let socket = target.dial(number).await.map_err(|error| anyhow!("TCP: {error}"))?;
        let name: ServerName<'static> = target.name.clone();
        let stream = TlsConnector::from(target.tls.clone())
            .connect(name, socket)
            .await
            .map_err(|error| anyhow!("TLS: {error}"))?;
        let mut link = Self { stream, rest: Vec::new() };

        let mut out = Vec::new();
        let login = target.hub.as_ref();
        let username =
            login.map(|login| format!("{}/{id}/?api-version=2021-04-12", login.hostname));
        let password = login.map(|login| identities::token(login, id)).transpose()?;
        let hello = Connect {
            client_id: id,
            username: username.as_deref(),
            password: password.as_deref(),
            keep_alive: plan.keep_alive,
            // SDKs ask a hub to keep the session; a broker shall not keep what we leave behind.
            clean_session: login.is_none(),
        };
        mqtt::connect(&mut out, &hello)?;
        link.send(&out).await?;
        match link.answer(shared).await? {
            Packet::ConnectAck { code: 0 } => {}
            Packet::ConnectAck { code } => bail!("CONNACK {code}"),
            other => bail!("{other:?} instead of CONNACK"),
        }
        if plan.subscribe {
            let c2d = format!("devices/{id}/messages/devicebound/#");
            out.clear();
            mqtt::subscribe(&mut out, 1, &[&c2d, "$iothub/methods/POST/#", "$iothub/twin/res/#"])?;
            link.send(&out).await?;
            match link.answer(shared).await? {
                Packet::SubscribeAck { refused } => {
                    shared.stats.borrow_mut().filters_refused += u64::from(refused);
                }
                other => bail!("{other:?} instead of SUBACK"),
            }
        }
        Ok(link)
    }

    /// The one packet that is waited for.
    async fn answer(&mut self, shared: &Shared) -> Result<Packet> {
        let mut answer = None;
        while answer.is_none() {
            self.receive(shared, |packet| answer = Some(packet)).await?;
        }
        answer.ok_or_else(|| anyhow!("no answer"))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Waits for bytes and hands over the packets they complete. Nothing is lost by dropping it.
    async fn receive(&mut self, shared: &Shared, mut on: impl FnMut(Packet)) -> Result<()> {
        poll_fn(|cx| self.poll_receive(cx, &mut shared.scratch.borrow_mut(), &mut on)).await
    }

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Vec<u8>,
        on: &mut impl FnMut(Packet),
    ) -> Poll<Result<()>> {
        let kept = self.rest.len();
        // Room for the rest of a long packet; the largest a hub sends is 64 KB.
        if scratch.len() < kept + 16 * 1024 {
            scratch.resize(kept + 64 * 1024, 0);
        }
        let mut buffer = ReadBuf::new(&mut scratch[kept..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)).map_err(|error| {
            // rustls' text is a paragraph.
            match error.kind() {
                ErrorKind::UnexpectedEof => anyhow!("closed by the server without close_notify"),
                _ => error.into(),
            }
        })?;
        let end = kept + buffer.filled().len();
        if end == kept {
            return Poll::Ready(Err(anyhow!("closed by the server")));
        }
        scratch[..kept].copy_from_slice(&self.rest);
        let mut at = 0;
        while let Some((packet, length)) = mqtt::read(&scratch[at..end])? {
            on(packet);
            at += length;
        }
        self.rest = scratch[at..end].to_vec();
        Poll::Ready(Ok(()))
    }
}

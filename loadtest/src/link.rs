//! A connection that MQTT packets go over.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use anyhow::{Result, anyhow, bail};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::identities;
use crate::mqtt::{self, Connect, Packet};
use crate::plan::Side;
use crate::rest::API_VERSION;
use crate::scenario::{Auth, Protocol};
use crate::target::{Target, Throttled};
use crate::tls::Stream;
use crate::websocket::{self, Frames};

/// Where all connections of a thread read into: an idle one holds no buffer.
pub type Scratch = RefCell<Vec<u8>>;

pub struct Link {
    stream: Stream,
    /// The beginning of a packet whose end has not come.
    rest: Vec<u8>,
    /// Over WebSocket.
    frames: Option<Frames>,
}

impl Link {
    /// Up to CONNACK. `number` spreads connections over source addresses.
    pub async fn open(
        target: &Target,
        side: &Side,
        tls: Option<&Arc<ClientConfig>>,
        number: usize,
        id: &str,
        scratch: &Scratch,
    ) -> Result<Self> {
        let websocket = side.group.protocol == Protocol::MqttWs;
        let port = if websocket { target.https_port()? } else { target.mqtt_port(number) };
        let mut stream = target.connect(port, tls, number).await?;
        let mut frames = None;
        if websocket {
            websocket::open(&mut stream, &target.hub()?.authority).await?;
            frames = Some(Frames::default());
        }
        let mut link = Self { stream, rest: Vec::new(), frames };
        link.send(&hello(target, side, id, false)?).await?;
        link.answer(scratch, |packet| match packet {
            Packet::ConnectAck { code: 0 } => Ok(()),
            Packet::ConnectAck { code: 3 } => Err(Throttled.into()),
            Packet::ConnectAck { code } => bail!("CONNACK {code}"),
            other => bail!("{other:?} instead of CONNACK"),
        })
        .await?;
        Ok(link)
    }

    /// Whether its TLS session is an earlier connection's.
    pub fn resumed(&self) -> bool {
        self.stream.resumed()
    }

    /// How many of the filters are refused.
    pub async fn subscribe(&mut self, scratch: &Scratch, filters: &[&str]) -> Result<u64> {
        let mut out = Vec::new();
        mqtt::subscribe(&mut out, 1, filters)?;
        self.send(&out).await?;
        self.answer(scratch, |packet| match packet {
            Packet::SubscribeAck { refused } => Ok(u64::from(refused)),
            other => bail!("{other:?} instead of SUBACK"),
        })
        .await
    }

    /// What `of` makes of the next packet.
    async fn answer<T>(
        &mut self,
        scratch: &Scratch,
        of: impl Fn(Packet<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut answer = None;
        loop {
            if let Some(answer) = answer {
                return Ok(answer);
            }
            self.receive(scratch, |packet| {
                answer = Some(of(packet)?);
                Ok(())
            })
            .await?;
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self.frames {
            Some(_) => self.stream.write_all(&websocket::frame(bytes)).await?,
            None => self.stream.write_all(bytes).await?,
        }
        self.stream.flush().await?;
        Ok(())
    }

    /// Says goodbye. The server may have gone first; nothing is left to be lost.
    pub async fn close(mut self) {
        let _ = self.send(&mqtt::DISCONNECT).await;
        let _ = self.stream.shutdown().await;
    }

    /// The socket alone, TLS forgotten; the server is not told.
    pub fn into_socket(self) -> std::io::Result<std::net::TcpStream> {
        self.stream.into_socket().into_std()
    }

    /// Waits for bytes and hands over the packets they complete. Nothing is lost by dropping it.
    pub async fn receive(
        &mut self,
        scratch: &Scratch,
        mut on: impl FnMut(Packet<'_>) -> Result<()>,
    ) -> Result<()> {
        poll_fn(|cx| self.poll_receive(cx, &mut scratch.borrow_mut(), &mut on)).await
    }

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Vec<u8>,
        on: &mut impl FnMut(Packet<'_>) -> Result<()>,
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
        let mut end = kept + buffer.filled().len();
        if end == kept {
            return Poll::Ready(Err(anyhow!("closed by the server")));
        }
        if let Some(frames) = &mut self.frames {
            end = kept + frames.take_off(&mut scratch[kept..end])?;
        }
        scratch[..kept].copy_from_slice(&self.rest);
        let mut at = 0;
        while let Some((packet, length)) = mqtt::read(&scratch[at..end])? {
            on(packet)?;
            at += length;
        }
        self.rest = scratch[at..end].to_vec();
        Poll::Ready(Ok(()))
    }
}

/// The CONNECT of a device. `bad`: its token is signed with another's key.
pub fn hello(target: &Target, side: &Side, id: &str, bad: bool) -> Result<Vec<u8>> {
    let login = target.hub.as_ref();
    let username = login.map(|login| format!("{}/{id}/?api-version={API_VERSION}", login.hostname));
    // Who shows a certificate sends none.
    let by_token = login.filter(|_| side.group.auth == Auth::Sas);
    let password = by_token.map(|login| identities::token(login, id, bad)).transpose()?;
    let hello = Connect {
        client_id: id,
        username: username.as_deref(),
        password: password.as_deref(),
        keep_alive: side.keep_alive(),
        // SDKs ask a hub to keep the session; a broker shall not keep what we leave behind.
        clean_session: login.is_none(),
    };
    let mut out = Vec::new();
    mqtt::connect(&mut out, &hello)?;
    Ok(out)
}

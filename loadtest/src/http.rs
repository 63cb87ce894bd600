//! HTTP/1.1 over TLS: what HTTPS devices and back ends say.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;

use crate::target::Target;

pub type Body = Full<Bytes>;

/// What an answer may have: more than any of a hub's, a page of a thousand twins.
const LONGEST: usize = 64 << 20;

pub struct Answer {
    pub status: StatusCode,
    headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Of one that is no success: without what differs from one to the next.
    pub fn error(&self) -> String {
        let name = self.header("iothub-errorcode").unwrap_or_default();
        format!("HTTP {} {name}", self.status.as_u16()).trim_end().to_owned()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Requests one after the other, to the port of a hub's HTTPS head.
pub struct Client {
    tls: Option<Arc<ClientConfig>>,
    /// Spreads clients over source addresses.
    number: usize,
    /// One connection for all requests, not one for each.
    keep: bool,
    open: Option<SendRequest<Body>>,
}

impl Client {
    pub fn new(tls: Option<Arc<ClientConfig>>, number: usize, keep: bool) -> Self {
        Self { tls, number, keep, open: None }
    }

    /// Opens the connection that the next request goes over.
    pub async fn open(&mut self, target: &Target) -> Result<()> {
        self.open = Some(self.dial(target).await?);
        Ok(())
    }

    pub fn close(&mut self) {
        self.open = None;
    }

    async fn dial(&self, target: &Target) -> Result<SendRequest<Body>> {
        let stream = target.connect(target.https_port()?, self.tls.as_ref(), self.number).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Whoever waits for an answer is told.
            let _ = connection.await;
        });
        Ok(sender)
    }

    pub async fn send(&mut self, target: &Target, request: Request<Body>) -> Result<Answer> {
        let (sender, answer) = self.head(target, request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LONGEST)
            .collect()
            .await
            .map_err(|error| anyhow!("HTTP: {error}"))?
            .to_bytes();
        if self.keep && head.headers.get("connection").is_none_or(|value| value != "close") {
            self.open = Some(sender);
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// The body of a 200 as it comes.
    pub async fn stream(
        mut self,
        target: &Target,
        request: Request<Body>,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Unpin + use<>> {
        let (_, answer) = self.head(target, request).await?;
        if answer.status() != StatusCode::OK {
            bail!("HTTP {}", answer.status());
        }
        Ok(answer.into_data_stream().map_err(|error| anyhow!("HTTP: {error}")))
    }

    async fn head(
        &mut self,
        target: &Target,
        mut request: Request<Body>,
    ) -> Result<(SendRequest<Body>, Response<Incoming>)> {
        loop {
            let (mut sender, kept) = match self.open.take() {
                Some(sender) => (sender, true),
                None => (self.dial(target).await?, false),
            };
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok((sender, answer)),
                Err(mut error) => match error.take_message() {
                    // The server closed a kept connection before it heard of the request.
                    Some(unsent) if kept => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(anyhow!("HTTP: {}", error.into_error())),
                },
            }
        }
    }
}

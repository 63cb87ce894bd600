//! HTTP/1.1 over TLS: what HTTPS devices and back ends say.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;

use crate::target::Target;

pub type Body = Full<Bytes>;

pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Requests one after the other, to the port of a hub's HTTPS head.
pub struct Client {
    tls: Arc<ClientConfig>,
    /// Spreads clients over source addresses.
    number: usize,
    /// One connection for all requests, not one for each.
    keep: bool,
    open: Option<SendRequest<Body>>,
}

impl Client {
    pub fn new(tls: &Arc<ClientConfig>, number: usize, keep: bool) -> Self {
        Self { tls: tls.clone(), number, keep, open: None }
    }

    /// Opens the connection that the next request goes over.
    pub async fn open(&mut self, target: &Target) -> Result<()> {
        let port = target.https_port()?;
        let stream = target.connect(port, &self.tls, self.number).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Whoever waits for an answer is told.
            let _ = connection.await;
        });
        self.open = Some(sender);
        Ok(())
    }

    pub async fn send(&mut self, target: &Target, request: Request<Body>) -> Result<Answer> {
        let mut request = request;
        loop {
            let kept = self.open.is_some();
            if !kept {
                self.open(target).await?;
            }
            let Some(mut sender) = self.open.take() else { continue };
            let answer = match sender.try_send_request(request).await {
                Ok(answer) => answer,
                Err(mut error) => match error.take_message() {
                    // The server closed a kept connection before it heard of the request.
                    Some(unsent) if kept => {
                        request = unsent;
                        continue;
                    }
                    _ => return Err(anyhow!("HTTP: {}", error.into_error())),
                },
            };
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| anyhow!("HTTP: {error}"))?.to_bytes();
            if self.keep && head.headers.get("connection").is_none_or(|value| value != "close") {
                self.open = Some(sender);
            }
            return Ok(Answer { status: head.status, body });
        }
    }
}

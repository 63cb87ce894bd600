//! The hub's REST API, as its owner.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use dunlin_auth::sas;
use futures_util::{Stream, TryStreamExt};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, StatusCode};
use rustls::ClientConfig;

use crate::identities;
use crate::target::{self, Login};

const API_VERSION: &str = "2021-04-12";
/// Connections that are kept, so requests at the same time.
pub const PARALLEL: usize = 32;

/// As long as a token of ours is valid: the client's own timeout cannot be taken away.
const ENDLESS: Duration = Duration::from_secs(24 * 3600);

pub struct Rest {
    client: Client,
    login: Login,
    token: String,
}

impl Rest {
    pub fn new(login: &Login, tls: &Arc<ClientConfig>, address: Option<IpAddr>) -> Result<Self> {
        let port = login.https_port()?;
        let address = match address {
            Some(ip) => (ip, port).into(),
            None => target::resolve(&login.hostname, port)?,
        };
        let client = Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(tls))
            .resolve(&login.hostname, address)
            .pool_max_idle_per_host(PARALLEL)
            .timeout(Duration::from_secs(30))
            .no_proxy()
            .build()?;
        let expiry = identities::expiry()?;
        let token = sas::sign(&login.hostname, Some(&login.policy), &login.key, expiry);
        Ok(Self { client, login: login.clone(), token })
    }

    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Status and body of the answer; `path` in segments.
    pub async fn send(
        &self,
        method: Method,
        path: &[&str],
        body: String,
    ) -> Result<(StatusCode, String)> {
        let mut url = format!("https://{}", self.login.authority);
        for segment in path {
            url.push('/');
            url.extend(utf8_percent_encode(segment, NON_ALPHANUMERIC));
        }
        url.push_str("?api-version=");
        url.push_str(API_VERSION);
        let mut request = self.client.request(method, url);
        request = request.header("Authorization", &self.token);
        request = if body.is_empty() {
            request.header("If-Match", "*")
        } else {
            request.header("Content-Type", "application/json").body(body)
        };
        let answer = request.send().await?;
        // Read in any case: the connection is used again.
        Ok((answer.status(), answer.text().await?))
    }

    /// The body of a GET that has no end; `path` with its query.
    pub async fn stream(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Unpin + use<>> {
        let url = format!("https://{}{path}", self.login.authority);
        let request = self.client.get(url).header("Authorization", &self.token).timeout(ENDLESS);
        let answer = request.send().await?;
        let status = answer.status();
        if status != StatusCode::OK {
            bail!("GET {path}: {status}: {}", answer.text().await?);
        }
        Ok(Box::pin(answer.bytes_stream().map_err(anyhow::Error::from)))
    }
}

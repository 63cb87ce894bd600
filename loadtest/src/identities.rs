//! The devices' identities: made and removed through the hub's REST API.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use dunlin_auth::{Key, sas};
use futures_util::{StreamExt, TryStreamExt, stream};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, StatusCode};
use ring::hmac;
use rustls::ClientConfig;
use serde_json::json;

use crate::target::{self, Login};

const API_VERSION: &str = "2021-04-12";
/// Requests at the same time.
const PARALLEL: usize = 32;
/// How long a token of ours is valid: longer than any run.
const TOKEN_SECONDS: u64 = 24 * 3600;

/// The id of the device with this number.
pub fn id(prefix: &str, number: usize) -> String {
    format!("{prefix}{number:06}")
}

/// A device's key, derived from the owner's: a later run knows it without asking the hub.
pub fn key(login: &Login, id: &str) -> Result<Key> {
    Ok(Key::from_base64(&derived(login, id))?)
}

fn derived(login: &Login, id: &str) -> String {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, login.key.to_base64().as_bytes());
    let tag = hmac::sign(&secret, id.as_bytes());
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, tag)
}

/// The password a device connects with.
pub fn token(login: &Login, id: &str) -> Result<String> {
    let resource = format!("{}/devices/{id}", login.hostname);
    Ok(sas::sign(&resource, None, &key(login, id)?, expiry()?))
}

fn expiry() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + TOKEN_SECONDS)
}

/// The registry's side of a run.
pub struct Registry {
    client: Client,
    login: Login,
    token: String,
}

impl Registry {
    pub fn new(
        login: &Login,
        tls: &Arc<ClientConfig>,
        address: Option<std::net::IpAddr>,
    ) -> Result<Self> {
        let port = match login.authority.rsplit_once(':') {
            Some((_, port)) => port.parse().context("the port of HostName is not a number")?,
            None => 443,
        };
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
        let token = sas::sign(&login.hostname, Some(&login.policy), &login.key, expiry()?);
        Ok(Self { client, login: login.clone(), token })
    }

    /// Creates the devices; those that exist are taken as they are.
    pub async fn create(&self, ids: &[String]) -> Result<()> {
        self.each(ids, async |id| {
            let key = derived(&self.login, id);
            let body = json!({
                "deviceId": id,
                "status": "enabled",
                "authentication": {
                    "type": "sas",
                    "symmetricKey": { "primaryKey": key, "secondaryKey": key },
                },
            });
            self.call(Method::PUT, id, body.to_string(), StatusCode::CONFLICT).await
        })
        .await
        .context("cannot create the devices")
    }

    /// Removes the devices; those that do not exist are as good as removed.
    pub async fn remove(&self, ids: &[String]) -> Result<()> {
        self.each(ids, async |id| {
            self.call(Method::DELETE, id, String::new(), StatusCode::NOT_FOUND).await
        })
        .await
        .context("cannot remove the devices")
    }

    async fn each(&self, ids: &[String], call: impl AsyncFn(&String) -> Result<()>) -> Result<()> {
        stream::iter(ids).map(|id| call(id)).buffer_unordered(PARALLEL).try_collect().await
    }

    async fn call(&self, method: Method, id: &str, body: String, also: StatusCode) -> Result<()> {
        let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
        let url =
            format!("https://{}/devices/{id}?api-version={API_VERSION}", self.login.authority);
        let mut request = self.client.request(method.clone(), url);
        request = request.header("Authorization", &self.token);
        request = if body.is_empty() {
            request.header("If-Match", "*")
        } else {
            request.header("Content-Type", "application/json").body(body)
        };
        let answer = request.send().await?;
        let status = answer.status();
        // Read in any case: the connection is used again.
        let text = answer.text().await?;
        if !status.is_success() && status != also {
            bail!("{method} of device {id}: {status}: {text}");
        }
        Ok(())
    }
}

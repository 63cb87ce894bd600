//! The devices' identities: made and removed through the hub's REST API.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use dunlin_auth::{Key, sas};
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::{Method, StatusCode};
use ring::hmac;
use serde_json::json;

use crate::rest::{PARALLEL, Rest};
use crate::target::Login;

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

pub fn expiry() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + TOKEN_SECONDS)
}

/// Creates the devices; those that exist are taken as they are.
pub async fn create(rest: &Rest, ids: &[String]) -> Result<()> {
    let login = rest.login()?;
    each(ids, async |id| {
        let key = derived(login, id);
        let authentication = match &login.thumbprint {
            Some(known) => json!({
                "type": "selfSigned",
                "x509Thumbprint": { "primaryThumbprint": known },
            }),
            None => json!({
                "type": "sas",
                "symmetricKey": { "primaryKey": key, "secondaryKey": key },
            }),
        };
        let body = json!({ "deviceId": id, "status": "enabled", "authentication": authentication });
        call(rest, Method::PUT, id, body.to_string(), StatusCode::CONFLICT).await
    })
    .await
    .context("cannot create the devices")
}

/// Removes the devices; those that do not exist are as good as removed.
pub async fn remove(rest: &Rest, ids: &[String]) -> Result<()> {
    each(ids, async |id| call(rest, Method::DELETE, id, String::new(), StatusCode::NOT_FOUND).await)
        .await
        .context("cannot remove the devices")
}

async fn each(ids: &[String], call: impl AsyncFn(&String) -> Result<()>) -> Result<()> {
    stream::iter(ids).map(|id| call(id)).buffer_unordered(PARALLEL).try_collect().await
}

async fn call(rest: &Rest, method: Method, id: &str, body: String, also: StatusCode) -> Result<()> {
    let answer = rest.send(method.clone(), &["devices", id], &[], body).await?;
    if !answer.status.is_success() && answer.status != also {
        bail!("{method} of device {id}: {}: {}", answer.status, answer.text());
    }
    Ok(())
}

//! The devices' identities: made and removed through the hub's REST API, a hundred a call.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use dunlin_auth::{Key, sas};
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::{Method, StatusCode};
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::plan::{Plan, Side};
use crate::rest::Rest;
use crate::scenario::{Auth, Retry};
use crate::target::Login;

/// How long a token of ours is valid: longer than any run.
const TOKEN_SECONDS: u64 = 24 * 3600;
/// Devices in a call: what a hub takes.
const CALL: usize = 100;
/// Calls at the same time.
const CALLS: usize = 4;
/// A hub that is asked for less is asked again for so long.
const TRIES: u32 = 20;

/// A device's key, derived from the owner's: a later run knows it without asking the hub.
fn key(login: &Login, id: &str) -> String {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, login.key.to_base64().as_bytes());
    let tag = hmac::sign(&secret, id.as_bytes());
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, tag)
}

/// What a device signs with: `bad` is another's key.
pub fn token(login: &Login, id: &str, bad: bool) -> Result<String> {
    let resource = format!("{}/devices/{id}", login.hostname);
    let key = Key::from_base64(&key(login, if bad { "another" } else { id }))?;
    Ok(sas::sign(&resource, None, &key, expiry()?))
}

/// Of a device that does not show a certificate.
pub fn token_of(login: &Login, side: &Side, id: &str) -> Result<Option<String>> {
    (side.group.auth == Auth::Sas).then(|| token(login, id, false)).transpose()
}

pub fn expiry() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + TOKEN_SECONDS)
}

/// Creates the devices; those that exist are taken as they are.
pub async fn create(rest: &Rest, plan: &Plan) -> Result<()> {
    let login = rest.login()?;
    let row = |(id, side): (String, &Side)| {
        let authentication = match side.group.auth {
            Auth::X509 => json!({
                "type": "selfSigned",
                "x509Thumbprint": { "primaryThumbprint": login.thumbprint },
            }),
            Auth::Sas => {
                let key = key(login, &id);
                json!({ "type": "sas", "symmetricKey": { "primaryKey": key, "secondaryKey": key } })
            }
        };
        json!({
            "id": id, "importMode": "create", "status": "enabled", "authentication": authentication,
        })
    };
    bulk(rest, plan.ids().map(row), "DeviceAlreadyExists")
        .await
        .context("cannot create the devices")
}

/// Removes the devices; those that do not exist are as good as removed.
pub async fn remove(rest: &Rest, plan: &Plan) -> Result<()> {
    let row = |(id, _)| json!({ "id": id, "importMode": "delete" });
    bulk(rest, plan.ids().map(row), "DeviceNotFound").await.context("cannot remove the devices")
}

/// `fine`: an error that is none.
async fn bulk(rest: &Rest, rows: impl Iterator<Item = Value>, fine: &str) -> Result<()> {
    let mut rows = rows.peekable();
    let calls = std::iter::from_fn(|| {
        rows.peek()?;
        Some(Value::Array(rows.by_ref().take(CALL).collect()))
    });
    stream::iter(calls)
        .map(|rows| call(rest, rows.to_string(), fine))
        .buffer_unordered(CALLS)
        .try_collect()
        .await
}

async fn call(rest: &Rest, rows: String, fine: &str) -> Result<()> {
    let mut tries = 0;
    let answer = loop {
        let answer = rest.send(Method::POST, &["devices"], &[], rows.clone()).await?;
        let later = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if !later.contains(&answer.status) || tries == TRIES {
            break answer;
        }
        sleep(Retry::default().wait(tries).max(Duration::from_secs(1))).await;
        tries += 1;
    };
    let text = answer.text();
    if answer.status == StatusCode::OK {
        return Ok(());
    }
    match failure(&text, fine) {
        Some(None) => Ok(()),
        Some(Some(why)) => bail!("{why}"),
        None => bail!("{}: {text}", answer.status),
    }
}

/// The first row that failed, and why; `None`: the answer is none about rows.
fn failure(text: &str, fine: &str) -> Option<Option<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        errors: Vec<Failed>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Failed {
        device_id: String,
        error_code: Value,
        error_status: Option<String>,
    }
    let Answer { errors } = serde_json::from_str(text).ok()?;
    // A name, or its number.
    let number = match fine {
        "DeviceAlreadyExists" => 409_001,
        _ => 404_001,
    };
    let bad = errors.iter().find(|row| row.error_code != fine && row.error_code != number);
    Some(bad.map(|row| {
        let why = row.error_status.as_deref().unwrap_or_default();
        format!("device {}: {} {why}", row.device_id, row.error_code)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_errors_of_a_row_count() {
        let row = |code: Value| {
            let error = json!({ "deviceId": "d", "errorCode": code, "errorStatus": "no" });
            json!({ "isSuccessful": false, "errors": [error], "warnings": [] }).to_string()
        };
        let fine = "DeviceAlreadyExists";
        assert_eq!(failure(&row(fine.into()), fine), Some(None));
        assert_eq!(failure(&row(409_001.into()), fine), Some(None));
        let other = failure(&row("ArgumentInvalid".into()), fine);
        assert_eq!(other, Some(Some("device d: \"ArgumentInvalid\" no".into())));
        assert_eq!(failure("{\"Message\":\"x\"}", fine), None);
    }
}

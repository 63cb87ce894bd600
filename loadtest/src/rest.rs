//! The hub's REST API, as its owner.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use dunlin_auth::sas;
use futures_util::Stream;
use hyper::{Method, Request};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::http::{Answer, Body, Client};
use crate::identities;
use crate::target::{Login, Target};

pub const API_VERSION: &str = "2021-04-12";
/// Connections that are kept, so requests at the same time.
pub const PARALLEL: usize = 32;
/// A method's answer may take half a minute.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of one thread.
pub struct Rest {
    target: Arc<Target>,
    token: String,
    free: RefCell<Vec<Client>>,
    turns: Semaphore,
}

impl Rest {
    pub fn new(target: &Arc<Target>) -> Result<Self> {
        let Login { hostname, policy, key, .. } = target.hub()?;
        let token = sas::sign(hostname, Some(policy), key, identities::expiry()?);
        let free =
            (0..PARALLEL).map(|number| Client::new(target.tls.clone(), number, true)).collect();
        let (free, turns) = (RefCell::new(free), Semaphore::new(PARALLEL));
        Ok(Self { target: target.clone(), token, free, turns })
    }

    pub fn login(&self) -> Result<&Login> {
        self.target.hub()
    }

    /// The body of an answer that goes on and on.
    pub async fn stream(
        &self,
        path_and_query: &str,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Unpin + use<>> {
        let request = Request::get(path_and_query).header("Host", &self.login()?.authority);
        let request = request.header("Authorization", &self.token).body(Body::default())?;
        let client = Client::new(self.target.tls.clone(), 0, false);
        client.stream(&self.target, request).await
    }

    /// `path` in segments. Without a body it is a request on whatever is there.
    pub async fn send(
        &self,
        method: Method,
        path: &[&str],
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Answer> {
        let mut uri = String::new();
        for segment in path {
            uri.push('/');
            uri.extend(utf8_percent_encode(segment, NON_ALPHANUMERIC));
        }
        uri.push_str("?api-version=");
        uri.push_str(API_VERSION);
        let mut request = Request::builder().method(method).uri(uri);
        request = request.header("Host", &self.login()?.authority);
        request = request.header("Authorization", &self.token);
        request = match body.is_empty() {
            true => request.header("If-Match", "*"),
            false => request.header("Content-Type", "application/json"),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into_bytes().into())?;

        let _turn = self.turns.acquire().await?;
        let mut client = self.free.borrow_mut().pop().context("as many clients as turns")?;
        let answer = timeout(PATIENCE, client.send(&self.target, request)).await;
        if answer.is_err() {
            // Its answer may still come, and is nobody else's.
            client = Client::new(self.target.tls.clone(), 0, true);
        }
        self.free.borrow_mut().push(client);
        answer.map_err(|_| anyhow!("no answer within {PATIENCE:?}"))?
    }
}

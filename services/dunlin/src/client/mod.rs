//! A client of the hub's REST API, for the command line and for tests.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use dunlin_auth::connection_string::Signer;
use dunlin_auth::{ConnectionString, sas};
use dunlin_runtime::clock::unix_seconds;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderValue;
use reqwest::{Certificate, ClientBuilder, Method, RequestBuilder, Response};
use serde_json::Value;

mod c2d;
mod events;
mod twins;

pub use c2d::{CommandMessage, Received};
pub use events::{Event, EventStream};
pub use twins::{MethodCall, TwinPatch};

const API_VERSION: &str = "2021-04-12";
const CONTINUATION: &str = "x-ms-continuation";
const POLICIES: &str = "/dunlin/v1/policies";
const TOKEN_SECONDS: u64 = 3_600;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the answer begins: a stream may go on for as long as it likes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The hub's own words.
    #[error("{code}: {message}")]
    Refused { status: u16, code: String, message: String },
    #[error("cannot reach the hub at {base}: {reason}")]
    Unreachable { base: String, reason: String },
    #[error("what answers at {base} is no Dunlin hub: {reason}")]
    NotAHub { base: String, reason: String },
    #[error("the CA file is not a PEM certificate")]
    BadCa,
    #[error("the connection string must be a policy's (SharedAccessKeyName=…), not a device's")]
    NotAPolicy,
}

/// A page of a list.
pub struct Page {
    pub devices: Value,
    /// How to go on; none: that was all.
    pub next: Option<Continuation>,
}

/// What a page is answered with when there is another one.
pub struct Continuation(HeaderValue);

/// Speaks to one hub as one policy.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    login: ConnectionString,
    policy: String,
}

impl Client {
    /// `ca`: trust this PEM certificate and no other. `address`: connect there, whatever the
    /// login's host name resolves to.
    pub fn new(
        login: ConnectionString,
        ca: Option<&[u8]>,
        address: Option<SocketAddr>,
    ) -> Result<Self, ClientError> {
        let Signer::Policy(policy) = login.signer.clone() else {
            return Err(ClientError::NotAPolicy);
        };
        let mut http = http();
        if let Some(pem) = ca {
            let ca = Certificate::from_pem(pem).map_err(|_| ClientError::BadCa)?;
            http = http.tls_certs_only([ca]);
        }
        if let Some(address) = address {
            http = http.resolve(login.hostname(), address);
        }
        let http = http.build().map_err(|_| ClientError::BadCa)?;
        let base = format!("https://{}", login.host);
        Ok(Self { http, base, login, policy })
    }

    pub fn login(&self) -> &ConnectionString {
        &self.login
    }

    /// A request with the policy's token. `path` is encoded, query included.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let expiry = unix_seconds() + TOKEN_SECONDS;
        let token = sas::sign(self.login.hostname(), Some(&self.policy), &self.login.key, expiry);
        self.http.request(method, format!("{}{path}", self.base)).header("authorization", token)
    }

    /// Sends a request as it is and returns whatever answer comes.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        self.send_within(request, ANSWER_TIMEOUT).await
    }

    async fn send_within(
        &self,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<Response, ClientError> {
        let Ok(answer) = tokio::time::timeout(patience, request.send()).await else {
            let reason = format!("no answer within {patience:?}");
            return Err(ClientError::Unreachable { base: self.base.clone(), reason });
        };
        answer.map_err(|error| self.unreachable(&error))
    }

    /// Sends a request and reads its answer: the JSON, or null where there is none.
    pub async fn call(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        self.call_within(request, ANSWER_TIMEOUT).await
    }

    async fn call_within(
        &self,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<Value, ClientError> {
        let response = self.accept(self.send_within(request, patience).await?).await?;
        self.read(response).await
    }

    async fn read(&self, response: Response) -> Result<Value, ClientError> {
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|error| self.not_a_hub(error.to_string()))
    }

    /// A call of IoT Hub's own API on `path` (without a query of its own).
    pub fn api(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &format!("{path}?api-version={API_VERSION}"))
    }

    pub async fn device_get(&self, id: &str) -> Result<Value, ClientError> {
        self.call(self.api(Method::GET, &identity_path(id))).await
    }

    /// The first devices, at most a page of them.
    pub async fn device_list(&self, top: usize) -> Result<Value, ClientError> {
        Ok(self.device_page(top, None).await?.devices)
    }

    /// Up to `top` devices, at most a page of them, behind the page that ended with `after`.
    pub async fn device_page(
        &self,
        top: usize,
        after: Option<&Continuation>,
    ) -> Result<Page, ClientError> {
        let path = format!("/devices?top={top}&api-version={API_VERSION}");
        let mut request = self.request(Method::GET, &path);
        if let Some(Continuation(token)) = after {
            request = request.header(CONTINUATION, token);
        }
        let response = self.accept(self.send(request).await?).await?;
        let next = response.headers().get(CONTINUATION).cloned().map(Continuation);
        Ok(Page { devices: self.read(response).await?, next })
    }

    pub async fn module_list(&self, device: &str) -> Result<Value, ClientError> {
        let path = format!("{}/modules", identity_path(device));
        self.call(self.api(Method::GET, &path)).await
    }

    /// Creates without `etag`, replaces with one (`*`: whatever is stored).
    pub async fn device_put(
        &self,
        id: &str,
        body: &Value,
        etag: Option<&str>,
    ) -> Result<Value, ClientError> {
        let mut request = self.api(Method::PUT, &identity_path(id)).json(body);
        if let Some(etag) = etag {
            request = request.header("if-match", quoted(etag));
        }
        self.call(request).await
    }

    pub async fn device_delete(&self, id: &str, etag: &str) -> Result<(), ClientError> {
        let request = self.api(Method::DELETE, &identity_path(id)).header("if-match", quoted(etag));
        self.call(request).await.map(drop)
    }

    pub async fn policy_list(&self) -> Result<Value, ClientError> {
        self.call(self.request(Method::GET, POLICIES)).await
    }

    pub async fn policy_get(&self, name: &str) -> Result<Value, ClientError> {
        self.call(self.request(Method::GET, &policy_path(name))).await
    }

    /// Creates; one that is there stays as it is, and is an error.
    pub async fn policy_create(&self, name: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(self.request(Method::PUT, &policy_path(name)).json(body)).await
    }

    /// `key`: primary, secondary or swap.
    pub async fn policy_renew_key(&self, name: &str, key: &str) -> Result<Value, ClientError> {
        let path = format!("{}/renew-key", policy_path(name));
        let body = serde_json::json!({ "key": key });
        self.call(self.request(Method::POST, &path).json(&body)).await
    }

    pub async fn policy_delete(&self, name: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &policy_path(name));
        self.call(request.header("if-match", quoted("*"))).await.map(drop)
    }

    /// Opens the event stream; `query` is encoded. What is sent once this returns is seen.
    pub async fn events(&self, query: &str) -> Result<EventStream, ClientError> {
        let path = format!("/dunlin/v1/events?{query}");
        let request = self.request(Method::GET, &path);
        let response = self.accept(self.send(request).await?).await?;
        EventStream::begin(response, self.base.clone()).await
    }

    /// Says that a consumer group is done with what comes before `position`, an event's id.
    pub async fn events_commit(&self, group: &str, position: &str) -> Result<(), ClientError> {
        let positions: BTreeMap<&str, u64> = position
            .split(',')
            .filter_map(|one| one.split_once(':'))
            .filter_map(|(partition, next)| Some((partition, next.parse().ok()?)))
            .collect();
        let body = serde_json::json!({ "group": group, "positions": positions });
        let request = self.request(Method::POST, "/dunlin/v1/events/commit").json(&body);
        self.call(request).await.map(drop)
    }

    /// The answer, if it is a success.
    async fn accept(&self, response: Response) -> Result<Response, ClientError> {
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let code = response.headers().get("iothub-errorcode").and_then(|v| v.to_str().ok());
        let Some(code) = code.map(str::to_owned) else {
            return Err(self.not_a_hub(format!("status {status} without iothub-errorcode")));
        };
        let body = response.bytes().await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = body["Message"].as_str().unwrap_or_default();
        let message = message.split_once(';').map_or(message, |(_, text)| text).to_owned();
        Err(ClientError::Refused { status, code, message })
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        unreachable(&self.base, error)
    }

    fn not_a_hub(&self, reason: String) -> ClientError {
        ClientError::NotAHub { base: self.base.clone(), reason }
    }
}

/// Every HTTP client begins here: our TLS, no proxy of the environment's.
pub fn http() -> ClientBuilder {
    // The process's default; whoever installed one before us chose the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT)
}

/// The innermost cause says most: "connection refused", "invalid peer certificate".
fn unreachable(base: &str, error: &reqwest::Error) -> ClientError {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason = cause.to_string();
        source = cause.source();
    }
    ClientError::Unreachable { base: base.to_owned(), reason }
}

fn policy_path(name: &str) -> String {
    format!("{POLICIES}/{}", encoded(name))
}

/// `/devices/d` or `/devices/d/modules/m` of an identity as MQTT writes it.
pub fn identity_path(id: &str) -> String {
    path_below("/devices", id)
}

fn path_below(root: &str, id: &str) -> String {
    match id.split_once('/') {
        Some((device, module)) => format!("{root}/{}/modules/{}", encoded(device), encoded(module)),
        None => format!("{root}/{}", encoded(id)),
    }
}

pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn quoted(etag: &str) -> String {
    format!("\"{}\"", etag.trim_matches('"'))
}

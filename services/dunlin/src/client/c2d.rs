//! C2D messages and feedback, as a back end; and as a device, by the HTTPS device API.

use dunlin_model::command::Disposition;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::{API_VERSION, Client, ClientError, encoded, identity_path};

const FEEDBACK: &str = "/messages/serviceBound/feedback";

/// A message to be sent: its body and the headers beside it.
pub struct CommandMessage {
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A message or a batch of feedback that was handed out.
pub struct Received {
    /// To settle it by.
    pub lock_token: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Client {
    /// Returns the message's id.
    pub async fn c2d_send(
        &self,
        device: &str,
        message: CommandMessage,
    ) -> Result<Value, ClientError> {
        let path = format!("/dunlin/v1/devices/{}/messages/devicebound", encoded(device));
        let request = self.request(Method::POST, &path).headers(message.headers);
        self.call(request.body(message.body)).await
    }

    pub async fn c2d_purge(&self, device: &str) -> Result<Value, ClientError> {
        let path = format!("{}/commands", identity_path(device));
        self.call(self.api(Method::DELETE, &path)).await
    }

    /// The next message of the device whose token it is, if there is one.
    pub async fn c2d_receive(
        &self,
        device: &str,
        token: &str,
    ) -> Result<Option<Received>, ClientError> {
        self.receive(self.as_device(Method::GET, device, "", "", token)).await
    }

    pub async fn c2d_settle(
        &self,
        device: &str,
        token: &str,
        lock: &str,
        disposition: Disposition,
    ) -> Result<(), ClientError> {
        let lock = encoded(lock);
        let request = match disposition {
            Disposition::Complete => {
                self.as_device(Method::DELETE, device, &format!("/{lock}"), "", token)
            }
            Disposition::Reject => {
                self.as_device(Method::DELETE, device, &format!("/{lock}"), "&reject=true", token)
            }
            Disposition::Abandon => {
                self.as_device(Method::POST, device, &format!("/{lock}/abandon"), "", token)
            }
        };
        self.call(request).await.map(drop)
    }

    /// The next batch of feedback, if there is one: a JSON array.
    pub async fn feedback_receive(&self) -> Result<Option<Received>, ClientError> {
        self.receive(self.api(Method::GET, FEEDBACK)).await
    }

    pub async fn feedback_complete(&self, lock: &str) -> Result<(), ClientError> {
        let path = format!("{FEEDBACK}/{}", encoded(lock));
        self.call(self.api(Method::DELETE, &path)).await.map(drop)
    }

    /// With the device's token in the place of the policy's.
    fn as_device(
        &self,
        method: Method,
        device: &str,
        below: &str,
        query: &str,
        token: &str,
    ) -> RequestBuilder {
        let path = format!("{}/messages/deviceBound{below}", identity_path(device));
        let url = format!("{}{path}?api-version={API_VERSION}{query}", self.base);
        self.http.request(method, url).header("authorization", token)
    }

    async fn receive(&self, request: RequestBuilder) -> Result<Option<Received>, ClientError> {
        let response: Response = self.accept(self.send(request).await?).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let headers = response.headers().clone();
        let etag = headers.get("etag").and_then(|value| value.to_str().ok());
        let lock_token = etag.map(|etag| etag.trim_matches('"').to_owned());
        let lock_token =
            lock_token.ok_or_else(|| self.not_a_hub("a message without ETag".into()))?;
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?.to_vec();
        Ok(Some(Received { lock_token, headers, body }))
    }
}

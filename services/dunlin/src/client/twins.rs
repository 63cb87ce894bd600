//! Twins and direct methods. What is sent is the caller's JSON as it stands.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ANSWER_TIMEOUT, Client, ClientError, path_below, quoted};

/// What a back end may change of a twin.
#[derive(Serialize)]
pub struct TwinPatch<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Properties<'a>>,
}

#[derive(Serialize)]
struct Properties<'a> {
    desired: &'a RawValue,
}

impl<'a> TwinPatch<'a> {
    pub fn new(tags: Option<&'a RawValue>, desired: Option<&'a RawValue>) -> Self {
        Self { tags, properties: desired.map(|desired| Properties { desired }) }
    }
}

/// A call of a method; the times are seconds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodCall<'a> {
    pub method_name: &'a str,
    pub response_timeout_in_seconds: u32,
    pub connect_timeout_in_seconds: u32,
    pub payload: Option<&'a RawValue>,
}

impl Client {
    pub async fn twin_get(&self, id: &str) -> Result<Value, ClientError> {
        self.call(self.api(Method::GET, &twin_path(id))).await
    }

    /// Merges the patch into the twin; `etag`: only if that is its current one.
    pub async fn twin_update(
        &self,
        id: &str,
        patch: &TwinPatch<'_>,
        etag: Option<&str>,
    ) -> Result<Value, ClientError> {
        self.call(self.twin_write(Method::PATCH, id, etag).json(patch)).await
    }

    /// Puts tags and desired properties of this twin in the place of those that are stored.
    pub async fn twin_replace(
        &self,
        id: &str,
        twin: &RawValue,
        etag: Option<&str>,
    ) -> Result<Value, ClientError> {
        self.call(self.twin_write(Method::PUT, id, etag).json(twin)).await
    }

    fn twin_write(&self, method: Method, id: &str, etag: Option<&str>) -> RequestBuilder {
        let request = self.api(method, &twin_path(id));
        match etag {
            Some(etag) => request.header("if-match", quoted(etag)),
            None => request,
        }
    }

    /// Calls a method and waits for as long as the call says.
    pub async fn method_invoke(
        &self,
        id: &str,
        call: &MethodCall<'_>,
    ) -> Result<Value, ClientError> {
        let seconds =
            call.response_timeout_in_seconds.saturating_add(call.connect_timeout_in_seconds);
        let patience = ANSWER_TIMEOUT + Duration::from_secs(seconds.into());
        let request = self.api(Method::POST, &format!("{}/methods", twin_path(id))).json(call);
        self.call_within(request, patience).await
    }
}

fn twin_path(id: &str) -> String {
    path_below("/twins", id)
}

//! `/twins/{id}/methods` and `/twins/{id}/modules/{module}/methods`: direct methods. The role
//! `methods` judges names, limits and times; here is the form of the call.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use dunlin_model::{ErrorCode, limits};
use dunlin_proto::v1;
use dunlin_proto::v1::methods_client::MethodsClient;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::answer::json;
use crate::body::members;
use crate::error::ApiError;
use crate::named::Named;
use crate::routes::Routes;

type Methods = State<MethodsClient<MeshChannel>>;
type Answer = Result<Response, ApiError>;

/// Longer than any call may take, whatever is set. The role `methods` keeps the time of each.
pub(crate) const DEADLINE: Duration = Duration::from_secs(limits::METHOD_SECONDS as u64 + 30);

pub(crate) fn routes(
    registry: RegistryClient<MeshChannel>,
    methods: MethodsClient<MeshChannel>,
) -> Routes {
    Routes::new(registry)
        .on(Method::POST, "/twins/{id}/methods", invoke)
        .on(Method::POST, "/twins/{id}/modules/{module}/methods", invoke)
        .with_state(methods)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call<'a> {
    #[serde(default)]
    method_name: String,
    response_timeout_in_seconds: Option<i64>,
    connect_timeout_in_seconds: Option<i64>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Debug, Serialize)]
struct Answered {
    status: i64,
    payload: Box<RawValue>,
}

/// A caller that goes away drops this, and with it all of the call, down to the gateway.
async fn invoke(
    State(mut methods): Methods,
    Named(id): Named,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let body = body?;
    let call: Call = members(&body)?;
    let request = v1::InvokeMethodRequest {
        id: id.as_str().to_owned(),
        method: call.method_name,
        payload: call.payload.map_or("null", RawValue::get).to_owned(),
        response_timeout: call.response_timeout_in_seconds,
        connect_timeout: call.connect_timeout_in_seconds,
    };
    let v1::InvokeMethodResponse { status, payload } =
        methods.invoke_method(request).await?.into_inner();
    let payload = RawValue::from_string(payload).map_err(|error| {
        ApiError::new(ErrorCode::ServerError, format!("the method's answer: {error}"))
    })?;
    json(StatusCode::OK, &Answered { status, payload })
}

#[cfg(test)]
mod tests;

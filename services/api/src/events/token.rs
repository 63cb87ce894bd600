//! `POST /dunlin/v1/events/token`: a token for the URL of the event stream, for who cannot send
//! headers (a browser's `EventSource`). It is never logged: nothing here logs URLs.

use axum::extract::State;
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use dunlin_auth::Permissions;
use dunlin_proto::v1::IssueQueryTokenRequest;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use serde_json::json;

use super::PATH;
use crate::error::{ApiError, JSON};
use crate::guard::token_of;
use crate::routes::Routes;

pub(crate) fn routes(registry: RegistryClient<MeshChannel>) -> Routes {
    const TOKEN: &str = "/dunlin/v1/events/token";
    Routes::new(registry.clone()).on(Method::POST, TOKEN, issue).with_state(registry)
}

/// The registry authorizes the caller once more, for the path the token will be good for.
async fn issue(
    State(mut registry): State<RegistryClient<MeshChannel>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let request = IssueQueryTokenRequest {
        sas_token: token_of(&headers)?,
        path: PATH.to_owned(),
        permissions: Permissions::SERVICE_CONNECT.bits(),
    };
    let issued = registry.issue_query_token(request).await?.into_inner();
    let expires = i64::try_from(issued.expires).unwrap_or(i64::MAX);
    let expires = jiff::Timestamp::from_second(expires).unwrap_or(jiff::Timestamp::MAX);
    let body = json!({ "token": issued.token, "expires": format!("{expires:.0}") });
    let headers = [
        (header::CONTENT_TYPE, JSON),
        (header::CACHE_CONTROL, axum::http::HeaderValue::from_static("no-store")),
    ];
    Ok((headers, body.to_string()).into_response())
}

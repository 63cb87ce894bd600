//! Who may call: the API version and the policy of the caller's token, before anything is read.

use std::collections::HashMap;

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use dunlin_auth::Permissions;
use dunlin_model::{ErrorCode, api_version};
use dunlin_proto::v1::AuthorizeRequest;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// What a route demands of its callers.
#[derive(Clone)]
pub(crate) struct Guard {
    pub registry: RegistryClient<MeshChannel>,
    pub wanted: Permissions,
    /// Whether it wants `api-version` in the query.
    pub versioned: bool,
    /// Whether a GET may bring a token in its URL (`access_token`), as a browser's event source
    /// has to.
    pub by_query: bool,
}

/// Middleware: lets a permitted call pass.
pub(crate) async fn check(
    State(guard): State<Guard>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if guard.versioned {
        api_version::check(query(request.uri())?.get("api-version").map(String::as_str))?;
    }
    let question = question(&request, guard.wanted, guard.by_query)?;
    let mut registry = guard.registry;
    registry.authorize(question).await?;
    Ok(next.run(request).await)
}

fn question(
    request: &Request,
    wanted: Permissions,
    by_query: bool,
) -> Result<AuthorizeRequest, ApiError> {
    let (path, permissions) = (path_of(request.uri()), wanted.bits());
    if by_query
        && request.method() == Method::GET
        && !request.headers().contains_key(header::AUTHORIZATION)
        && let query_token @ Some(_) = query(request.uri())?.remove("access_token")
    {
        return Ok(AuthorizeRequest { sas_token: String::new(), path, permissions, query_token });
    }
    let sas_token = token_of(request.headers())?;
    Ok(AuthorizeRequest { sas_token, path, permissions, query_token: None })
}

/// A token's sr names ids as they are, the path encodes them.
fn path_of(uri: &Uri) -> String {
    percent_decode_str(uri.path()).decode_utf8_lossy().into_owned()
}

pub(crate) fn token_of(headers: &HeaderMap) -> Result<String, ApiError> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.map(str::to_owned).ok_or_else(|| {
        ApiError::new(
            ErrorCode::IotHubUnauthorized,
            "send Authorization: SharedAccessSignature sr=…&sig=…&se=…&skn=…",
        )
    })
}

pub(crate) fn query(uri: &Uri) -> Result<HashMap<String, String>, ApiError> {
    Query::try_from_uri(uri)
        .map(|Query(parameters)| parameters)
        .map_err(|_| ApiError::new(ErrorCode::ArgumentInvalid, "the query is malformed"))
}

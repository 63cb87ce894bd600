//! Who may call: the API version and the policy of the caller's token, before anything is read.

use std::collections::HashMap;

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use dunlin_auth::Permissions;
use dunlin_model::ErrorCode;
use dunlin_proto::v1::AuthorizeRequest;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// The first version of the service API that had today's shapes.
const OLDEST: jiff::civil::Date = jiff::civil::date(2016, 2, 3);

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
        api_version(&query(request.uri())?)?;
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

/// `YYYY-MM-DD[-preview]`. Later versions than we know are taken: what they add, they ask for.
fn api_version(parameters: &HashMap<String, String>) -> Result<(), ApiError> {
    let refused = |message: &str| Err(ApiError::new(ErrorCode::InvalidProtocolVersion, message));
    let Some(version) = parameters.get("api-version") else {
        return refused("the query parameter api-version is missing");
    };
    let date = version.strip_suffix("-preview").unwrap_or(version);
    match date.parse::<jiff::civil::Date>() {
        Ok(day) if date.len() == 10 && day >= OLDEST => Ok(()),
        _ => refused("api-version is not YYYY-MM-DD[-preview] of 2016-02-03 or later"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_versions_are_dates() {
        #[track_caller]
        fn check(text: &str, ok: bool) {
            let uri = format!("/devices?{text}").parse().expect("a uri");
            let got = query(&uri).and_then(|parameters| api_version(&parameters));
            assert_eq!(got.is_ok(), ok, "{text}");
        }
        for good in ["2016-02-03", "2016-09-30-preview", "2021-04-12", "2030-01-01"] {
            check(&format!("api-version={good}"), true);
        }
        for bad in ["2016-02-02", "2015-08-15-preview", "", "latest", "2021-4-12", "2021-13-01"] {
            check(&format!("api-version={bad}"), false);
        }
        check("api-version=2021-04-12T00:00", false);
        check("api-version=20210412", false);
        check("Api-Version=2021-04-12", false);
        check("", false);
    }
}

//! `/dunlin/v1/certificates`: the CA certificates that vouch for devices. IoT Hub has these in its
//! resource provider, which a hub of one's own does not have.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dunlin_proto::v1;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use serde::{Deserialize, Serialize};

use crate::answer::{json, tagged};
use crate::body::object;
use crate::error::ApiError;
use crate::etag::condition;
use crate::identity::time;
use crate::routes::Routes;

type Registry = State<RegistryClient<MeshChannel>>;
type Answer = Result<Response, ApiError>;
type Name = Result<Path<String>, PathRejection>;

pub(crate) fn routes(registry: RegistryClient<MeshChannel>) -> Routes {
    const ONE: &str = "/dunlin/v1/certificates/{name}";
    Routes::new(registry.clone())
        .on(Method::GET, "/dunlin/v1/certificates", list)
        .on(Method::GET, ONE, show)
        .on(Method::PUT, ONE, add)
        .on(Method::DELETE, ONE, delete)
        .on(Method::POST, "/dunlin/v1/certificates/{name}/generate-verification-code", code)
        .on(Method::POST, "/dunlin/v1/certificates/{name}/verify", verify)
        .with_state(registry)
}

/// A certificate as it is sent.
#[derive(Debug, Deserialize)]
struct Body {
    /// PEM.
    certificate: String,
}

/// By the names of IoT Hub's resource provider.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    name: String,
    subject: String,
    expiry: String,
    /// SHA-1.
    thumbprint: String,
    is_verified: bool,
    created: String,
    updated: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    verification_code: String,
    /// Base64 of DER.
    certificate: String,
    etag: String,
}

impl From<v1::Authority> for Shown {
    fn from(wire: v1::Authority) -> Self {
        Self {
            expiry: time(i64::try_from(wire.expires).unwrap_or(0).saturating_mul(1_000)),
            created: time(wire.created),
            updated: time(wire.updated),
            certificate: STANDARD.encode(wire.certificate),
            name: wire.name,
            subject: wire.subject,
            thumbprint: wire.thumbprint,
            is_verified: wire.verified,
            verification_code: wire.verification_code,
            etag: wire.etag,
        }
    }
}

async fn list(State(mut registry): Registry) -> Answer {
    let all = registry.list_authorities(v1::ListAuthoritiesRequest {}).await?.into_inner();
    json(StatusCode::OK, &all.authorities.into_iter().map(Shown::from).collect::<Vec<_>>())
}

async fn show(State(mut registry): Registry, name: Name) -> Answer {
    let Path(name) = name?;
    let request = v1::GetAuthorityRequest { name };
    one(StatusCode::OK, registry.get_authority(request).await?.into_inner())
}

/// It creates only: another certificate under an old name would be verified by nobody.
async fn add(
    State(mut registry): Registry,
    name: Name,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path(name) = name?;
    let Body { certificate: pem } = object(&body?)?;
    let request = v1::AddAuthorityRequest { name, pem };
    one(StatusCode::CREATED, registry.add_authority(request).await?.into_inner())
}

async fn code(State(mut registry): Registry, name: Name, headers: HeaderMap) -> Answer {
    let Path(name) = name?;
    let if_match = condition(&headers)?.into_wire();
    let request = v1::GenerateVerificationCodeRequest { name, if_match };
    one(StatusCode::OK, registry.generate_verification_code(request).await?.into_inner())
}

async fn verify(
    State(mut registry): Registry,
    name: Name,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path(name) = name?;
    let if_match = condition(&headers)?.into_wire();
    let Body { certificate: pem } = object(&body?)?;
    let request = v1::VerifyAuthorityRequest { name, pem, if_match };
    one(StatusCode::OK, registry.verify_authority(request).await?.into_inner())
}

async fn delete(State(mut registry): Registry, name: Name, headers: HeaderMap) -> Answer {
    let Path(name) = name?;
    let if_match = condition(&headers)?.into_wire();
    registry.delete_authority(v1::DeleteAuthorityRequest { name, if_match }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn one(status: StatusCode, wire: v1::Authority) -> Answer {
    let etag = wire.etag.clone();
    tagged(status, &etag, &Shown::from(wire))
}

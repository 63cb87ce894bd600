//! `/dunlin/v1/policies`: the hub's shared access policies. IoT Hub has these in its resource
//! provider, which a hub of one's own does not have.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use dunlin_auth::Permissions;
use dunlin_model::ErrorCode;
use dunlin_proto::v1;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use serde::{Deserialize, Serialize};

use crate::body::object;
use crate::error::{ApiError, JSON};

type Registry = State<RegistryClient<MeshChannel>>;
type Answer = Result<Response, ApiError>;
type Name = Result<Path<String>, PathRejection>;

/// Who manages policies can give himself any permission, so he must hold all of them.
pub(crate) const MANAGE: Permissions = Permissions::REGISTRY_READ
    .and(Permissions::REGISTRY_WRITE)
    .and(Permissions::SERVICE_CONNECT)
    .and(Permissions::DEVICE_CONNECT);

pub(crate) fn router(registry: RegistryClient<MeshChannel>) -> Router {
    Router::new()
        .route("/dunlin/v1/policies", get(list).post(create))
        .route("/dunlin/v1/policies/{name}", get(show).put(create_named).delete(delete))
        .route("/dunlin/v1/policies/{name}/renew-key", post(renew))
        .with_state(registry)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct New {
    name: Option<String>,
    permissions: String,
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    name: String,
    /// `RegistryRead, RegistryWrite`.
    permissions: String,
    primary_key: String,
    secondary_key: String,
}

impl From<v1::Policy> for Shown {
    fn from(wire: v1::Policy) -> Self {
        let permissions = Permissions::from_bits(wire.permissions).unwrap_or_default();
        Self {
            name: wire.name,
            permissions: permissions.to_string(),
            primary_key: wire.primary_key,
            secondary_key: wire.secondary_key,
        }
    }
}

async fn list(State(mut registry): Registry) -> Answer {
    let policies = registry.list_policies(v1::ListPoliciesRequest {}).await?.into_inner().policies;
    json(StatusCode::OK, &policies.into_iter().map(Shown::from).collect::<Vec<_>>())
}

async fn show(State(mut registry): Registry, name: Name) -> Answer {
    let Path(name) = name?;
    one(StatusCode::OK, registry.get_policy(v1::GetPolicyRequest { name }).await?.into_inner())
}

async fn create(registry: Registry, body: Result<Bytes, BytesRejection>) -> Answer {
    let new: New = object(&body?)?;
    let name = new.name.clone().ok_or_else(|| invalid("name is missing"))?;
    make(registry, name, new).await
}

async fn create_named(
    registry: Registry,
    name: Name,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path(name) = name?;
    let new: New = object(&body?)?;
    if new.name.as_ref().is_some_and(|other| *other != name) {
        return Err(invalid("name of the body is not the one of the path"));
    }
    make(registry, name, new).await
}

async fn make(State(mut registry): Registry, name: String, new: New) -> Answer {
    let permissions = Permissions::parse(&new.permissions).ok_or_else(|| {
        invalid(
            "permissions is a list of RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect",
        )
    })?;
    let policy = v1::Policy {
        name,
        permissions: permissions.bits(),
        primary_key: new.primary_key.unwrap_or_default(),
        secondary_key: new.secondary_key.unwrap_or_default(),
    };
    one(StatusCode::CREATED, registry.create_policy(policy).await?.into_inner())
}

#[derive(Debug, Deserialize)]
struct Renew {
    key: String,
}

async fn renew(
    State(mut registry): Registry,
    name: Name,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path(name) = name?;
    let Renew { key } = object(&body?)?;
    let key = match key.to_ascii_lowercase().as_str() {
        "primary" => v1::PolicyKey::Primary,
        "secondary" => v1::PolicyKey::Secondary,
        "swap" => v1::PolicyKey::Swap,
        _ => {
            let message = "key is primary, secondary or swap";
            return Err(ApiError::new(ErrorCode::InvalidPolicyKey, message));
        }
    };
    let request = v1::RenewPolicyKeyRequest { name, key: key.into() };
    one(StatusCode::OK, registry.renew_policy_key(request).await?.into_inner())
}

async fn delete(State(mut registry): Registry, name: Name) -> Answer {
    let Path(name) = name?;
    registry.delete_policy(v1::DeletePolicyRequest { name }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn one(status: StatusCode, wire: v1::Policy) -> Answer {
    json(status, &Shown::from(wire))
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let headers = [(header::CONTENT_TYPE, JSON)];
    Ok((status, headers, serde_json::to_vec(value)?).into_response())
}

fn invalid(message: &str) -> ApiError {
    ApiError::new(ErrorCode::ArgumentInvalid, message)
}

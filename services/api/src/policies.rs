//! `/dunlin/v1/policies`: the hub's shared access policies. IoT Hub has these in its resource
//! provider, which a hub of one's own does not have.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use dunlin_auth::Permissions;
use dunlin_model::ErrorCode;
use dunlin_proto::v1;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use serde::{Deserialize, Serialize};

use crate::answer::{json, tagged};
use crate::body::object;
use crate::error::ApiError;
use crate::etag::{Condition, condition};
use crate::routes::Routes;

type Registry = State<RegistryClient<MeshChannel>>;
type Answer = Result<Response, ApiError>;
type Name = Result<Path<String>, PathRejection>;

pub(crate) fn routes(registry: RegistryClient<MeshChannel>) -> Routes {
    const ALL: &str = "/dunlin/v1/policies";
    const ONE: &str = "/dunlin/v1/policies/{name}";
    Routes::new(registry.clone())
        .on(Method::GET, ALL, list)
        .on(Method::POST, ALL, create)
        .on(Method::GET, ONE, show)
        .on(Method::PUT, ONE, put)
        .on(Method::DELETE, ONE, delete)
        .on(Method::POST, "/dunlin/v1/policies/{name}/renew-key", renew)
        .with_state(registry)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    name: Option<String>,
    permissions: Option<String>,
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
    etag: String,
}

impl From<v1::Policy> for Shown {
    fn from(wire: v1::Policy) -> Self {
        let permissions = Permissions::from_bits(wire.permissions).unwrap_or_default();
        Self {
            name: wire.name,
            permissions: permissions.to_string(),
            primary_key: wire.primary_key,
            secondary_key: wire.secondary_key,
            etag: wire.etag,
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

async fn create(State(mut registry): Registry, body: Result<Bytes, BytesRejection>) -> Answer {
    let body: Body = object(&body?)?;
    let name = body.name.clone().ok_or_else(|| invalid("name is missing"))?;
    let policy = body.into_wire(name)?;
    one(StatusCode::CREATED, registry.create_policy(policy).await?.into_inner())
}

/// Without `If-Match` it creates, with one it replaces, as of devices.
async fn put(
    State(mut registry): Registry,
    name: Name,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path(name) = name?;
    let condition = condition(&headers)?;
    let body: Body = object(&body?)?;
    if body.name.as_ref().is_some_and(|other| *other != name) {
        return Err(invalid("name of the body is not the one of the path"));
    }
    let policy = body.into_wire(name)?;
    if condition == Condition::Absent {
        return one(StatusCode::CREATED, registry.create_policy(policy).await?.into_inner());
    }
    let request =
        v1::ReplacePolicyRequest { policy: Some(policy), if_match: condition.into_wire() };
    one(StatusCode::OK, registry.replace_policy(request).await?.into_inner())
}

impl Body {
    fn into_wire(self, name: String) -> Result<v1::Policy, ApiError> {
        let permissions = Permissions::parse(&self.permissions.unwrap_or_default());
        let permissions = permissions.ok_or_else(|| {
            invalid(
                "permissions is a list of RegistryRead, RegistryWrite, ServiceConnect, \
                 DeviceConnect",
            )
        })?;
        Ok(v1::Policy {
            name,
            permissions: permissions.bits(),
            primary_key: self.primary_key.unwrap_or_default(),
            secondary_key: self.secondary_key.unwrap_or_default(),
            etag: String::new(),
        })
    }
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

async fn delete(State(mut registry): Registry, name: Name, headers: HeaderMap) -> Answer {
    let Path(name) = name?;
    let if_match = condition(&headers)?.into_wire();
    registry.delete_policy(v1::DeletePolicyRequest { name, if_match }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn one(status: StatusCode, wire: v1::Policy) -> Answer {
    let etag = wire.etag.clone();
    tagged(status, &etag, &Shown::from(wire))
}

fn invalid(message: &str) -> ApiError {
    ApiError::new(ErrorCode::ArgumentInvalid, message)
}

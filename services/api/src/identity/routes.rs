//! The calls on identities. Each is one call to the registry.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use dunlin_model::{DeviceIdentity, ErrorCode, HubError, Identity};
use dunlin_proto::v1;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use serde::Serialize;

use super::bulk;
use super::json::{Body, Shown};
use crate::body::object;
use crate::error::{ApiError, JSON};
use crate::etag::{self, Condition, condition};
use crate::guard::query;

type Registry = State<RegistryClient<MeshChannel>>;
type Answer = Result<Response, ApiError>;
/// A rejection of the extractor is answered like every other error.
type Device = Result<Path<String>, PathRejection>;
type Module = Result<Path<(String, String)>, PathRejection>;

pub(crate) fn router(registry: RegistryClient<MeshChannel>) -> Router {
    Router::new()
        .route("/devices", get(list_devices).post(write_devices))
        .route("/devices/", get(list_devices).post(write_devices))
        .route("/devices/keys/regenerate", post(regenerate_keys))
        .route("/statistics/devices", get(device_statistics))
        .route("/statistics/service", get(service_statistics))
        .route("/devices/{id}", get(get_device).put(put_device).delete(delete_device))
        .route("/devices/{id}/modules", get(list_modules))
        .route("/devices/{id}/modules/", get(list_modules))
        .route(
            "/devices/{id}/modules/{module}",
            get(get_module).put(put_module).delete(delete_module),
        )
        .with_state(registry)
}

async fn list_devices(State(mut registry): Registry, uri: Uri) -> Answer {
    let top = match query(&uri)?.get("top") {
        // The registry reads 0 as a full page, as the hub does with whatever no page can hold.
        Some(text) => {
            let top: i64 = text.parse().map_err(|_| {
                ApiError::new(ErrorCode::ArgumentInvalid, "the query parameter top is not a number")
            })?;
            u32::try_from(top).unwrap_or(0)
        }
        None => 0,
    };
    list(registry.list_devices(v1::ListDevicesRequest { top }).await?.into_inner())
}

async fn write_devices(State(registry): Registry, body: Result<Bytes, BytesRejection>) -> Answer {
    bulk::write(registry, &body?).await
}

async fn regenerate_keys(State(registry): Registry, body: Result<Bytes, BytesRejection>) -> Answer {
    bulk::regenerate(registry, &body?).await
}

async fn device_statistics(State(mut registry): Registry) -> Answer {
    let counted = registry.get_statistics(v1::GetStatisticsRequest {}).await?.into_inner();
    json(&serde_json::json!({
        "totalDeviceCount": counted.devices,
        "enabledDeviceCount": counted.devices.saturating_sub(counted.disabled),
        "disabledDeviceCount": counted.disabled,
    }))
}

async fn service_statistics(State(mut registry): Registry) -> Answer {
    let counted = registry.get_statistics(v1::GetStatisticsRequest {}).await?.into_inner();
    json(&serde_json::json!({ "connectedDeviceCount": counted.connected }))
}

async fn list_modules(State(mut registry): Registry, device: Device) -> Answer {
    let Path(device_id) = device?;
    list(registry.list_modules(v1::ListModulesRequest { device_id }).await?.into_inner())
}

async fn get_device(registry: Registry, device: Device) -> Answer {
    let Path(device) = device?;
    get_one(registry, Identity::device(&device)?).await
}

async fn get_module(registry: Registry, module: Module) -> Answer {
    let Path((device, module)) = module?;
    get_one(registry, Identity::module(&device, &module)?).await
}

async fn put_device(
    registry: Registry,
    device: Device,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path(device) = device?;
    put_one(registry, Identity::device(&device)?, &headers, &body?).await
}

async fn put_module(
    registry: Registry,
    module: Module,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path((device, module)) = module?;
    put_one(registry, Identity::module(&device, &module)?, &headers, &body?).await
}

async fn delete_device(registry: Registry, device: Device, headers: HeaderMap) -> Answer {
    let Path(device) = device?;
    delete_one(registry, Identity::device(&device)?, &headers).await
}

async fn delete_module(registry: Registry, module: Module, headers: HeaderMap) -> Answer {
    let Path((device, module)) = module?;
    delete_one(registry, Identity::module(&device, &module)?, &headers).await
}

async fn get_one(State(mut registry): Registry, id: Identity) -> Answer {
    let request = v1::GetIdentityRequest { id: id.as_str().to_owned() };
    one(registry.get_identity(request).await?.into_inner())
}

/// Without `If-Match` it creates, with one it replaces: neither ever does the other's work.
async fn put_one(
    State(mut registry): Registry,
    id: Identity,
    headers: &HeaderMap,
    body: &[u8],
) -> Answer {
    let condition = condition(headers)?;
    let body: Body = object(body)?;
    let wire = body.into_wire(id.device_id(), id.module_id())?;
    let answer = if condition == Condition::Absent {
        registry.create_identity(wire).await?
    } else {
        let request =
            v1::ReplaceIdentityRequest { identity: Some(wire), if_match: condition.into_wire() };
        registry.replace_identity(request).await?
    };
    one(answer.into_inner())
}

async fn delete_one(State(mut registry): Registry, id: Identity, headers: &HeaderMap) -> Answer {
    let request = v1::DeleteIdentityRequest {
        id: id.as_str().to_owned(),
        if_match: condition(headers)?.into_wire(),
    };
    registry.delete_identity(request).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn one(wire: v1::Identity) -> Answer {
    let identity = DeviceIdentity::try_from(wire).map_err(broken)?;
    let etag = etag::header(&identity.etag);
    let mut response = json(&Shown::from(identity))?;
    response.headers_mut().extend(etag);
    Ok(response)
}

fn list(wire: v1::IdentityList) -> Answer {
    let shown: Result<Vec<_>, _> = wire
        .identities
        .into_iter()
        .map(|one| DeviceIdentity::try_from(one).map(Shown::from))
        .collect();
    json(&shown.map_err(broken)?)
}

/// What the registry sent is wrong: that is never the caller's fault.
fn broken(error: HubError) -> ApiError {
    ApiError::new(ErrorCode::ServerError, format!("the registry's answer: {}", error.message))
}

fn json(value: &impl Serialize) -> Answer {
    Ok(([(header::CONTENT_TYPE, JSON)], serde_json::to_vec(value)?).into_response())
}

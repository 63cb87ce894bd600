//! The calls on identities. Each is one call to the registry, that for a single device also one to
//! `c2d`, which knows how many messages it has queued.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use dunlin_model::{DeviceIdentity, ErrorCode, HubError, Identity};
use dunlin_proto::v1;
use dunlin_proto::v1::c2d_client::C2dClient;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_proto::v1::twins_client::TwinsClient;
use dunlin_runtime::MeshChannel;

use super::bulk;
use super::json::{Body, Shown};
use super::page;
use crate::answer::{json, tagged};
use crate::body::object;
use crate::c2d::queued;
use crate::error::ApiError;
use crate::etag::{Condition, condition};
use crate::guard::query;
use crate::routes::Routes;

type Registry = State<RegistryClient<MeshChannel>>;
type Answer = Result<Response, ApiError>;
/// A rejection of the extractor is answered like every other error.
type Device = Result<Path<String>, PathRejection>;
type Module = Result<Path<(String, String)>, PathRejection>;

pub(crate) fn routes(
    registry: RegistryClient<MeshChannel>,
    twins: TwinsClient<MeshChannel>,
    c2d: C2dClient<MeshChannel>,
) -> Routes {
    const MODULE: &str = "/devices/{id}/modules/{module}";
    let write_devices = async move |State(registry): Registry,
                                    body: Result<Bytes, BytesRejection>|
                -> Answer { bulk::write(registry, &twins, &body?).await };
    let get_device = move |registry: Registry, device: Device| get_device(registry, c2d, device);
    Routes::new(registry.clone())
        .on(Method::GET, "/devices", list_devices)
        .on(Method::GET, "/devices/", list_devices)
        .on(Method::POST, "/devices", write_devices.clone())
        .on(Method::POST, "/devices/", write_devices)
        .on(Method::POST, "/devices/keys/regenerate", regenerate_keys)
        .on(Method::GET, "/statistics/devices", device_statistics)
        .on(Method::GET, "/statistics/service", service_statistics)
        .on(Method::GET, "/devices/{id}", get_device)
        .on(Method::PUT, "/devices/{id}", put_device)
        .on(Method::DELETE, "/devices/{id}", delete_device)
        .on(Method::GET, "/devices/{id}/modules", list_modules)
        .on(Method::GET, "/devices/{id}/modules/", list_modules)
        .on(Method::GET, MODULE, get_module)
        .on(Method::PUT, MODULE, put_module)
        .on(Method::DELETE, MODULE, delete_module)
        .with_state(registry)
}

async fn list_devices(State(mut registry): Registry, uri: Uri, headers: HeaderMap) -> Answer {
    let page = page::asked(&query(&uri)?, &headers)?;
    let v1::DevicePage { devices, more } = registry.list_devices(page).await?.into_inner();
    let next = devices.last().filter(|_| more).map(|last| page::continuation(&last.id));
    let mut response = list(devices)?;
    if let Some(next) = next {
        response.headers_mut().insert(page::CONTINUATION, next);
    }
    Ok(response)
}

async fn regenerate_keys(State(registry): Registry, body: Result<Bytes, BytesRejection>) -> Answer {
    bulk::regenerate(registry, &body?).await
}

async fn device_statistics(State(mut registry): Registry) -> Answer {
    let counted = registry.get_statistics(v1::GetStatisticsRequest {}).await?.into_inner();
    json(
        StatusCode::OK,
        &serde_json::json!({
            "totalDeviceCount": counted.devices,
            "enabledDeviceCount": counted.devices.saturating_sub(counted.disabled),
            "disabledDeviceCount": counted.disabled,
        }),
    )
}

async fn service_statistics(State(mut registry): Registry) -> Answer {
    let counted = registry.get_statistics(v1::GetStatisticsRequest {}).await?.into_inner();
    json(StatusCode::OK, &serde_json::json!({ "connectedDeviceCount": counted.connected }))
}

async fn list_modules(State(mut registry): Registry, device: Device) -> Answer {
    let Path(device_id) = device?;
    let modules = registry.list_modules(v1::ListModulesRequest { device_id }).await?;
    list(modules.into_inner().identities)
}

async fn get_device(
    State(mut registry): Registry,
    c2d: C2dClient<MeshChannel>,
    device: Device,
) -> Answer {
    let Path(device) = device?;
    let id = Identity::device(&device)?;
    let request = v1::GetIdentityRequest { id: id.as_str().to_owned() };
    let wire = registry.get_identity(request).await?.into_inner();
    let queued = queued(c2d, &id).await?;
    one(wire, queued)
}

async fn get_module(State(mut registry): Registry, module: Module) -> Answer {
    let Path((device, module)) = module?;
    let id = Identity::module(&device, &module)?.as_str().to_owned();
    one(registry.get_identity(v1::GetIdentityRequest { id }).await?.into_inner(), 0)
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
    one(answer.into_inner(), 0)
}

async fn delete_one(State(mut registry): Registry, id: Identity, headers: &HeaderMap) -> Answer {
    let request = v1::DeleteIdentityRequest {
        id: id.as_str().to_owned(),
        if_match: condition(headers)?.into_wire(),
    };
    registry.delete_identity(request).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `queued`: the C2D messages that wait for it, where that was asked for.
fn one(wire: v1::Identity, queued: u32) -> Answer {
    let identity = DeviceIdentity::try_from(wire).map_err(broken)?;
    let etag = identity.etag.clone();
    tagged(StatusCode::OK, &etag, &Shown::from(identity).with_queued(queued))
}

fn list(wire: Vec<v1::Identity>) -> Answer {
    let shown: Result<Vec<_>, _> =
        wire.into_iter().map(|one| DeviceIdentity::try_from(one).map(Shown::from)).collect();
    json(StatusCode::OK, &shown.map_err(broken)?)
}

/// What the registry sent is wrong: that is never the caller's fault.
fn broken(error: HubError) -> ApiError {
    ApiError::new(ErrorCode::ServerError, format!("the registry's answer: {}", error.message))
}

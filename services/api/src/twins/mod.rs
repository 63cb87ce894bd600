//! `/twins/{id}` and `/twins/{id}/modules/{module}`: twins as back ends see them. Each call is one
//! to the role `twins`, and one to `c2d`, which knows how many messages a device has queued.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use dunlin_proto::v1;
use dunlin_proto::v1::c2d_client::C2dClient;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_proto::v1::twins_client::TwinsClient;
use dunlin_runtime::MeshChannel;

use crate::answer::tagged;
use crate::body::members;
use crate::c2d::queued;
use crate::error::ApiError;
use crate::etag::condition;
use crate::named::Named;
use crate::routes::Routes;

mod json;

use json::Shown;
pub(crate) use json::{Body, Parts};

type Roles = State<(TwinsClient<MeshChannel>, C2dClient<MeshChannel>)>;
type Answer = Result<Response, ApiError>;

/// A twin is written as it was read: with reported properties and the metadata of everything, which
/// has eighty bytes for a value that counts as five. Of a full twin that is a megabyte.
const BODY_BYTES: usize = 2 << 20;

pub(crate) fn routes(
    registry: RegistryClient<MeshChannel>,
    twins: TwinsClient<MeshChannel>,
    c2d: C2dClient<MeshChannel>,
) -> Routes {
    let room = || DefaultBodyLimit::max(BODY_BYTES);
    let mut routes = Routes::new(registry);
    for path in ["/twins/{id}", "/twins/{id}/modules/{module}"] {
        routes = routes
            .on(Method::GET, path, read)
            .on(Method::PATCH, path, write.layer(room()))
            .on(Method::PUT, path, write.layer(room()));
    }
    routes.with_state((twins, c2d))
}

async fn read(State((mut twins, c2d)): Roles, Named(id): Named) -> Answer {
    let queued = queued(c2d, &id).await?;
    let request = v1::GetTwinRequest { id: id.as_str().to_owned() };
    shown(twins.get_twin(request).await?.into_inner(), queued)
}

/// PATCH merges what it names, PUT takes the place of all.
async fn write(
    State((mut twins, c2d)): Roles,
    Named(id): Named,
    method: Method,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let if_match = condition(&headers)?.into_wire();
    let body = body?;
    let (tags, desired) = members::<Body>(&body)?.into_parts()?;
    // First of all: what fails after an update was stored would look as if it was not.
    let queued = queued(c2d, &id).await?;
    let request = v1::UpdateTwinRequest {
        id: id.as_str().to_owned(),
        if_match,
        replace: method == Method::PUT,
        tags,
        desired,
    };
    shown(twins.update_twin(request).await?.into_inner(), queued)
}

fn shown(wire: v1::Twin, queued: u32) -> Answer {
    let etag = wire.etag.clone();
    tagged(StatusCode::OK, &etag, &Shown::of(wire, queued)?)
}

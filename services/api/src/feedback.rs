//! `/messages/serviceBound/feedback`: what became of C2D messages, read batch by batch under a lock.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use dunlin_model::ErrorCode;
use dunlin_proto::v1;
use dunlin_proto::v1::c2d_client::C2dClient;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use serde::Serialize;

use crate::error::{ApiError, JSON};
use crate::guard::query;
use crate::identity::time;
use crate::routes::Routes;

type C2d = State<C2dClient<MeshChannel>>;
type Answer = Result<Response, ApiError>;
type Token = Result<Path<String>, PathRejection>;

/// The paths, in the two spellings that clients have.
const PATHS: [[&str; 3]; 2] = [
    [
        "/messages/serviceBound/feedback",
        "/messages/serviceBound/feedback/{token}",
        "/messages/serviceBound/feedback/{token}/abandon",
    ],
    [
        "/messages/servicebound/feedback",
        "/messages/servicebound/feedback/{token}",
        "/messages/servicebound/feedback/{token}/abandon",
    ],
];

pub(crate) fn routes(registry: RegistryClient<MeshChannel>, c2d: C2dClient<MeshChannel>) -> Routes {
    let mut routes = Routes::new(registry);
    for [all, one, abandoned] in PATHS {
        routes = routes.on(Method::GET, all, read).on(Method::DELETE, one, complete).on(
            Method::POST,
            abandoned,
            abandon,
        );
    }
    routes.with_state(c2d)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    original_message_id: String,
    enqueued_time_utc: String,
    status_code: String,
    description: String,
    device_id: String,
    device_generation_id: String,
}

impl From<v1::FeedbackRecord> for Shown {
    fn from(wire: v1::FeedbackRecord) -> Self {
        Self {
            original_message_id: wire.original_message_id,
            enqueued_time_utc: time(wire.enqueued),
            description: wire.status.clone(),
            status_code: wire.status,
            device_id: wire.device_id,
            device_generation_id: wire.device_generation_id,
        }
    }
}

/// The lock token is the ETag, as with messages of the HTTPS device API.
async fn read(State(mut c2d): C2d) -> Answer {
    let leased = c2d.lease_feedback(v1::LeaseFeedbackRequest {}).await?.into_inner();
    let Some(batch) = leased.batch else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let records: Vec<Shown> = batch.records.into_iter().map(Shown::from).collect();
    let mut response = serde_json::to_vec(&records)?.into_response();
    for (name, value) in [
        (header::ETAG, format!("\"{}\"", batch.lock_token)),
        (HeaderName::from_static("iothub-enqueuedtime"), time(batch.enqueued)),
        (HeaderName::from_static("iothub-sequencenumber"), batch.sequence.to_string()),
        (HeaderName::from_static("iothub-deliverycount"), batch.delivery_count.to_string()),
    ] {
        let value = HeaderValue::try_from(value).map_err(|_| {
            ApiError::new(ErrorCode::ServerError, format!("{name} of the feedback is no text"))
        })?;
        response.headers_mut().insert(name, value);
    }
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(response)
}

/// `?reject` drops it, which of feedback comes to the same.
async fn complete(c2d: C2d, token: Token, uri: Uri) -> Answer {
    let reject = query(&uri)?.contains_key("reject");
    let disposition = if reject { v1::Disposition::Reject } else { v1::Disposition::Complete };
    settle(c2d, token, disposition).await
}

async fn abandon(c2d: C2d, token: Token) -> Answer {
    settle(c2d, token, v1::Disposition::Abandon).await
}

async fn settle(State(mut c2d): C2d, token: Token, disposition: v1::Disposition) -> Answer {
    let Path(lock_token) = token?;
    let request = v1::SettleFeedbackRequest { lock_token, disposition: disposition.into() };
    c2d.settle_feedback(request).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

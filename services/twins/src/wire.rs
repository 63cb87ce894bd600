//! Twins as gRPC messages.

use dunlin_model::json::Object;
use dunlin_model::twin::Section;
use dunlin_model::{ErrorCode, HubError, Status};
use dunlin_proto::v1;
use dunlin_storage::device_store::StoredIdentity;
use dunlin_storage::twin_store::StoredTwin;

pub(crate) fn twin(stored: StoredTwin) -> Result<v1::Twin, HubError> {
    let StoredTwin { identity, twin } = stored;
    Ok(v1::Twin {
        auth_type: identity.auth_type.clone(),
        thumbprints: identity.thumbprints.clone().map(Into::into),
        model_id: identity.session.model_id.clone().unwrap_or_default(),
        identity: Some(without_authentication(identity)),
        etag: twin.etag_text(),
        version: twin.version,
        tags: text(&twin.tags)?,
        desired: Some(section(&twin.desired)?),
        reported: Some(section(&twin.reported)?),
    })
}

fn section(section: &Section) -> Result<v1::Section, HubError> {
    Ok(v1::Section {
        properties: text(&section.properties)?,
        metadata: text(&section.metadata)?,
        version: section.version,
    })
}

fn without_authentication(identity: StoredIdentity) -> v1::Identity {
    v1::Identity {
        id: identity.id.as_str().to_owned(),
        generation_id: identity.generation_id,
        etag: identity.etag,
        status: match identity.status {
            Status::Enabled => v1::Status::Enabled,
            Status::Disabled => v1::Status::Disabled,
        }
        .into(),
        status_reason: identity.status_reason,
        status_updated: identity.status_updated,
        authentication: None,
        iot_edge: Some(identity.iot_edge),
        device_scope: identity.device_scope,
        parent_scopes: Some(v1::ScopeList { scopes: identity.parent_scopes }),
        managed_by: identity.managed_by,
        connection: Some(identity.connection.into()),
    }
}

pub(crate) fn text(object: &Object) -> Result<String, HubError> {
    serde_json::to_string(object)
        .map_err(|error| HubError::new(ErrorCode::ServerError, error.to_string()))
}

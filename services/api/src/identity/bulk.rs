//! `POST /devices` and `POST /devices/keys/regenerate`: many identities in one call, an outcome each.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use dunlin_model::{ErrorCode, HubError, Identity, limits};
use dunlin_proto::v1;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_runtime::MeshChannel;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::json::Body;
use crate::body::{object, objects};
use crate::error::{ApiError, JSON};
use crate::etag;

type Registry = RegistryClient<MeshChannel>;

/// A row as `ExportImportDevice` has it; its other fields are those of a device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: Option<String>,
    device_id: Option<String>,
    module_id: Option<String>,
    /// `eTag`; some clients write `etag`.
    e_tag: Option<String>,
    etag: Option<String>,
    import_mode: Option<String>,
    tags: Option<Value>,
    properties: Option<Value>,
    #[serde(flatten)]
    body: Body,
}

/// The modes that write twins, which the hub does not keep yet.
const TWIN_MODES: [&str; 2] = ["updateTwin", "updateTwinIfMatchETag"];

/// The modes that write identities, and whether they depend on the row's ETag. A row without one
/// creates or updates, as an import does.
const MODES: [(&str, v1::RowMode, bool); 7] = [
    ("createOrUpdate", v1::RowMode::CreateOrUpdate, false),
    ("create", v1::RowMode::Create, false),
    ("update", v1::RowMode::Update, false),
    ("updateIfMatchETag", v1::RowMode::Update, true),
    ("delete", v1::RowMode::Delete, false),
    ("deleteIfMatchETag", v1::RowMode::Delete, true),
    ("createOrUpdateIfMatchETag", v1::RowMode::CreateOrUpdate, true),
];

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    is_successful: bool,
    errors: Vec<RowError>,
    /// The hub has none to give: what is registered here has all it needs.
    warnings: [(); 0],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RowError {
    device_id: String,
    module_id: Option<String>,
    error_code: &'static str,
    error_status: String,
    operation: String,
}

impl Row {
    fn device(&self) -> String {
        self.id.clone().or_else(|| self.device_id.clone()).unwrap_or_default()
    }

    fn module(&self) -> Option<String> {
        self.module_id.clone().filter(|id| !id.is_empty())
    }

    /// The mode in the words of the documentation, if it is one.
    fn operation(&self) -> String {
        let mode = self.import_mode.as_deref().unwrap_or(MODES[0].0);
        let known = MODES.iter().map(|(name, ..)| *name).chain(TWIN_MODES);
        known.into_iter().find(|name| name.eq_ignore_ascii_case(mode)).unwrap_or(mode).to_owned()
    }

    fn into_wire(self) -> Result<v1::IdentityRow, ApiError> {
        let operation = self.operation();
        let refused = |code, message: String| Err(ApiError::new(code, message));
        if TWIN_MODES.contains(&operation.as_str()) {
            return refused(
                ErrorCode::InvalidOperation,
                format!("{operation}: this hub does not keep twins yet"),
            );
        }
        let mode = MODES.iter().find(|(name, ..)| *name == operation);
        let Some((_, mode, conditional)) = mode else {
            return refused(ErrorCode::ArgumentInvalid, format!("no importMode {operation:?}"));
        };
        if *mode != v1::RowMode::Delete && (says(&self.tags) || says(&self.properties)) {
            return refused(
                ErrorCode::InvalidOperation,
                "tags and properties: this hub does not keep twins yet".to_owned(),
            );
        }
        let (device, module) = (self.device(), self.module());
        // Checked here, so that a bad id is the row's error whatever else is wrong with it.
        match &module {
            Some(module) => Identity::module(&device, module)?,
            None => Identity::device(&device)?,
        };
        let etag = self.e_tag.or(self.etag).map(|etag| etag::bare(&etag).to_owned());
        let etag = etag.filter(|etag| !etag.is_empty());
        let if_match = match (conditional, etag) {
            (false, _) => None,
            (true, Some(etag)) => Some(etag).filter(|etag| etag != "*"),
            (true, None) => {
                return refused(ErrorCode::ArgumentNull, format!("{operation} needs an eTag"));
            }
        };
        let body = if *mode == v1::RowMode::Delete { Body::default() } else { self.body };
        let identity = body.without_ids().into_wire(&device, module.as_deref())?;
        Ok(v1::IdentityRow { identity: Some(identity), mode: (*mode).into(), if_match })
    }
}

/// Whether a part of a twin holds anything: clients send empty ones along.
fn says(part: &Option<Value>) -> bool {
    fn holds(value: &Value) -> bool {
        match value {
            Value::Null => false,
            Value::Object(fields) => {
                fields.iter().any(|(name, value)| !name.starts_with('$') && holds(value))
            }
            _ => true,
        }
    }
    part.as_ref().is_some_and(holds)
}

pub(super) async fn write(mut registry: Registry, body: &[u8]) -> Result<Response, ApiError> {
    let rows: Vec<Row> = objects(body)?;
    check_count(rows.len())?;
    let mut errors = Vec::new();
    let (mut asked, mut wire) = (Vec::new(), Vec::new());
    for (at, row) in rows.into_iter().enumerate() {
        let (device_id, module_id) = (row.device(), row.module());
        let operation = row.operation();
        let error = |error: HubError| RowError {
            device_id,
            module_id,
            error_code: error.code.name(),
            error_status: error.message,
            operation,
        };
        match row.into_wire() {
            Ok(row) => {
                asked.push((at, error));
                wire.push(row);
            }
            Err(ApiError(refused)) => errors.push((at, error(refused))),
        }
    }
    let answer = registry.write_identities(v1::WriteIdentitiesRequest { rows: wire }).await?;
    for ((at, error), result) in asked.into_iter().zip(answer.into_inner().results) {
        if let Some(refused) = Option::<HubError>::from(result) {
            errors.push((at, error(refused)));
        }
    }
    errors.sort_by_key(|(at, _)| *at);
    let errors: Vec<_> = errors.into_iter().map(|(_, error)| error).collect();
    let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let outcome = Outcome { is_successful: errors.is_empty(), errors, warnings: [] };
    answered(status, ErrorCode::BulkRegistryOperationFailure, &outcome)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Regenerate {
    policy_key: Option<String>,
    devices: Vec<Target>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    id: String,
    module_id: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Regenerated {
    policy_key: &'static str,
    rotated_keys: Vec<Rotated>,
    errors: Vec<NotRotated>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rotated {
    id: String,
    module_id: Option<String>,
    primary_key: String,
    secondary_key: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NotRotated {
    id: String,
    module_id: Option<String>,
    error_code: &'static str,
    error_status: String,
}

/// 200: all of them; 207: some; 400: none.
pub(super) async fn regenerate(mut registry: Registry, body: &[u8]) -> Result<Response, ApiError> {
    let Regenerate { policy_key, devices } = object(body)?;
    check_count(devices.len())?;
    let asked = policy_key.unwrap_or_default();
    let names = [("primaryKey", true, false), ("secondaryKey", false, true), ("both", true, true)];
    let found = names.into_iter().find(|(name, ..)| name.eq_ignore_ascii_case(&asked));
    let Some((policy_key, primary, secondary)) = found else {
        let message = "policyKey is primaryKey, secondaryKey or both";
        return Err(ApiError::new(ErrorCode::InvalidPolicyKey, message));
    };
    let ids = devices.iter().map(|target| match &target.module_id {
        Some(module) if !module.is_empty() => format!("{}/{module}", target.id),
        _ => target.id.clone(),
    });
    let request = v1::RegenerateKeysRequest { ids: ids.collect(), primary, secondary };
    let results = registry.regenerate_keys(request).await?.into_inner().results;
    let (mut rotated_keys, mut errors) = (Vec::new(), Vec::new());
    for (Target { id, module_id }, done) in devices.into_iter().zip(results) {
        match Option::<HubError>::from(done.result.unwrap_or_default()) {
            Some(error) => errors.push(NotRotated {
                id,
                module_id,
                error_code: error.code.name(),
                error_status: error.message,
            }),
            None => {
                let keys = done.keys.unwrap_or_default();
                let (primary_key, secondary_key) = (keys.primary, keys.secondary);
                rotated_keys.push(Rotated { id, module_id, primary_key, secondary_key });
            }
        }
    }
    let status = match (rotated_keys.is_empty(), errors.is_empty()) {
        (_, true) => StatusCode::OK,
        (false, false) => StatusCode::MULTI_STATUS,
        (true, false) => StatusCode::BAD_REQUEST,
    };
    let outcome = Regenerated { policy_key, rotated_keys, errors };
    answered(status, ErrorCode::BulkRegenerateDeviceKeyOperationFailure, &outcome)
}

/// A failure is told by the header as everywhere; the body stays the outcome of the rows.
fn answered(
    status: StatusCode,
    failure: ErrorCode,
    outcome: &impl Serialize,
) -> Result<Response, ApiError> {
    let json = serde_json::to_vec(outcome)?;
    let mut response = (status, [(header::CONTENT_TYPE, JSON)], json).into_response();
    if status == StatusCode::BAD_REQUEST {
        response.headers_mut().insert(crate::error::ERROR_CODE, crate::error::name_of(failure));
    }
    Ok(response)
}

fn check_count(rows: usize) -> Result<(), ApiError> {
    if rows <= limits::BULK_DEVICES {
        return Ok(());
    }
    let message = format!("one call takes at most {} devices", limits::BULK_DEVICES);
    Err(ApiError::new(ErrorCode::TooManyDevices, message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_read_as_the_sdks_write_them() {
        #[track_caller]
        fn check(
            row: Value,
            want: Result<(v1::RowMode, Option<&str>), ErrorCode>,
            operation: &str,
        ) {
            let row: Row = serde_json::from_value(row).expect("a row");
            assert_eq!(row.operation(), operation);
            let got = row.into_wire().map(|row| (row.mode(), row.if_match));
            let got = got.map_err(|error| error.0.code);
            assert_eq!(got, want.map(|(mode, etag)| (mode, etag.map(str::to_owned))));
        }
        use v1::RowMode as M;
        check(json!({"id": "d"}), Ok((M::CreateOrUpdate, None)), "createOrUpdate");
        check(json!({"id": "d", "importMode": "create"}), Ok((M::Create, None)), "create");
        check(json!({"deviceId": "d", "importMode": "CREATE"}), Ok((M::Create, None)), "create");
        check(
            json!({"id": "d", "importMode": "Update", "eTag": "x"}),
            Ok((M::Update, None)),
            "update",
        );
        for tag in [json!({"eTag": "x"}), json!({"etag": "\"x\""}), json!({"eTag": "W/\"x\""})] {
            let mut row = json!({"id": "d", "importMode": "UpdateIfMatchETag"});
            row.as_object_mut().expect("a row").extend(tag.as_object().expect("a tag").clone());
            check(row, Ok((M::Update, Some("x"))), "updateIfMatchETag");
        }
        check(
            json!({"id": "d", "importMode": "DeleteIfMatchETag", "eTag": "*"}),
            Ok((M::Delete, None)),
            "deleteIfMatchETag",
        );
        check(
            json!({"id": "d", "importMode": "deleteIfMatchETag"}),
            Err(ErrorCode::ArgumentNull),
            "deleteIfMatchETag",
        );
        check(json!({"id": "d", "importMode": "fly"}), Err(ErrorCode::ArgumentInvalid), "fly");
        check(
            json!({"id": "d", "importMode": "UpdateTwin"}),
            Err(ErrorCode::InvalidOperation),
            "updateTwin",
        );
        check(json!({"importMode": "create"}), Err(ErrorCode::ArgumentInvalid), "create");
        check(
            json!({"id": "d", "moduleId": "a b", "importMode": "create"}),
            Err(ErrorCode::ArgumentInvalid),
            "create",
        );
        for twin in [json!({"tags": {"a": 1}}), json!({"properties": {"desired": {"x": [0]}}})] {
            let mut row = json!({"id": "d", "importMode": "create"});
            row.as_object_mut().expect("a row").extend(twin.as_object().expect("a twin").clone());
            check(row, Err(ErrorCode::InvalidOperation), "create");
        }
        let empty = json!({"desired": {"$version": 1, "$metadata": {}}, "reported": {}});
        check(
            json!({"id": "d", "importMode": "create", "tags": {}, "properties": empty}),
            Ok((M::Create, None)),
            "create",
        );
    }
}

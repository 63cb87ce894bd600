//! `POST /devices` and `POST /devices/keys/regenerate`: many identities in one call, an outcome each.

use std::collections::HashSet;

use axum::http::StatusCode;
use axum::response::Response;
use dunlin_model::{ErrorCode, HubError, Identity, limits};
use dunlin_proto::status::from_status;
use dunlin_proto::v1;
use dunlin_proto::v1::registry_client::RegistryClient;
use dunlin_proto::v1::twins_client::TwinsClient;
use dunlin_runtime::MeshChannel;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::json::Body;
use crate::answer::json;
use crate::body::{object, objects};
use crate::error::ApiError;
use crate::{etag, twins};

type Registry = RegistryClient<MeshChannel>;

/// A row as `ExportImportDevice` has it; its other fields are those of a device. What it says of a
/// twin is read beside it, as it was written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: Option<String>,
    device_id: Option<String>,
    module_id: Option<String>,
    /// `eTag`; some clients write `etag`.
    e_tag: Option<String>,
    etag: Option<String>,
    #[serde(rename = "twinETag")]
    twin_etag: Option<String>,
    import_mode: Option<String>,
    #[serde(flatten)]
    body: Body,
}

/// What a mode writes.
#[derive(Clone, Copy)]
enum Writes {
    Identity(v1::RowMode),
    Twin,
}

/// The modes, and whether they depend on the row's ETag. A row without one creates or updates, as
/// an import does.
const MODES: [(&str, Writes, bool); 9] = [
    ("createOrUpdate", Writes::Identity(v1::RowMode::CreateOrUpdate), false),
    ("create", Writes::Identity(v1::RowMode::Create), false),
    ("update", Writes::Identity(v1::RowMode::Update), false),
    ("updateIfMatchETag", Writes::Identity(v1::RowMode::Update), true),
    ("delete", Writes::Identity(v1::RowMode::Delete), false),
    ("deleteIfMatchETag", Writes::Identity(v1::RowMode::Delete), true),
    ("createOrUpdateIfMatchETag", Writes::Identity(v1::RowMode::CreateOrUpdate), true),
    ("updateTwin", Writes::Twin, false),
    ("updateTwinIfMatchETag", Writes::Twin, true),
];

/// What a row asks of another role.
#[derive(Debug)]
enum Asked {
    Identity(Box<v1::IdentityRow>),
    Twin(v1::UpdateTwinRequest),
}

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
        let known = MODES.iter().map(|(name, ..)| *name);
        known.into_iter().find(|name| name.eq_ignore_ascii_case(mode)).unwrap_or(mode).to_owned()
    }

    fn into_wire(self, (tags, desired): twins::Parts) -> Result<Asked, ApiError> {
        let operation = self.operation();
        let refused = |code, message: String| Err(ApiError::new(code, message));
        let mode = MODES.iter().find(|(name, ..)| *name == operation);
        let Some((_, writes, conditional)) = mode else {
            return refused(ErrorCode::ArgumentInvalid, format!("no importMode {operation:?}"));
        };
        if self.id.is_some() && self.device_id.is_some() && self.id != self.device_id {
            let message = "id and deviceId are not the same".to_owned();
            return refused(ErrorCode::ArgumentInvalid, message);
        }
        let (device, module) = (self.device(), self.module());
        // Checked here, so that a bad id is the row's error whatever else is wrong with it.
        let id = match &module {
            Some(module) => Identity::module(&device, module)?,
            None => Identity::device(&device)?,
        };
        let (which, etag) = match writes {
            Writes::Identity(_) => ("eTag", self.e_tag.or(self.etag)),
            Writes::Twin => ("twinETag", self.twin_etag),
        };
        let etag = etag.map(|etag| etag::bare(&etag).to_owned()).filter(|etag| !etag.is_empty());
        let if_match = match (conditional, etag) {
            (false, _) => None,
            (true, Some(etag)) => Some(etag).filter(|etag| etag != "*"),
            (true, None) => {
                return refused(ErrorCode::ArgumentNull, format!("{operation} needs {which}"));
            }
        };
        let (mode, body, tags, desired) = match writes {
            Writes::Twin => {
                let id = id.as_str().to_owned();
                let replace = false;
                return Ok(Asked::Twin(v1::UpdateTwinRequest {
                    id,
                    if_match,
                    replace,
                    tags,
                    desired,
                }));
            }
            Writes::Identity(mode @ v1::RowMode::Delete) => (*mode, Body::default(), None, None),
            Writes::Identity(mode) => (*mode, self.body, tags, desired),
        };
        let identity = Some(body.without_ids().into_wire(&device, module.as_deref())?);
        let row = v1::IdentityRow { identity, mode: mode.into(), if_match, tags, desired };
        Ok(Asked::Identity(Box::new(row)))
    }
}

/// The rows of a body, each with what it says of a twin.
fn read(body: &[u8]) -> Result<Vec<(Row, twins::Parts)>, serde_json::Error> {
    let rows: Vec<Row> = objects(body)?;
    let twins: Vec<twins::Body> = serde_json::from_slice(body)?;
    rows.into_iter().zip(twins).map(|(row, twin)| Ok((row, twin.into_parts()?))).collect()
}

/// Reads the body of a bulk call as `write` does: how many of its rows are not refused by it.
pub(crate) fn reads_rows(body: &[u8]) -> Option<usize> {
    let rows = read(body).ok()?;
    Some(rows.into_iter().filter_map(|(row, twin)| row.into_wire(twin).ok()).count())
}

/// Identities first, in one transaction; then twins, each by itself.
pub(super) async fn write(
    mut registry: Registry,
    twins: &TwinsClient<MeshChannel>,
    body: &[u8],
) -> Result<Response, ApiError> {
    let rows = read(body)?;
    check_count(rows.len())?;
    let mut errors = Vec::new();
    let (mut asked, mut wire, mut updates) = (Vec::new(), Vec::new(), Vec::new());
    let mut named = HashSet::new();
    for (at, (row, twin)) in rows.into_iter().enumerate() {
        let (device_id, module_id) = (row.device(), row.module());
        let operation = row.operation();
        let error = |error: HubError| RowError {
            device_id,
            module_id,
            error_code: error.code.name(),
            error_status: error.message,
            operation,
        };
        match row.into_wire(twin) {
            Ok(Asked::Identity(row)) => {
                asked.push((at, error));
                wire.push(*row);
            }
            Ok(Asked::Twin(update)) if named.insert(update.id.clone()) => {
                updates.push((at, error, update));
            }
            Ok(Asked::Twin(update)) => {
                let why = format!("the twin of {} is in this call more than once", update.id);
                let again = HubError::new(ErrorCode::DeviceDefinedMultipleTimes, why);
                errors.push((at, error(again)));
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
    let updating = updates.into_iter().map(|(at, error, update)| {
        let mut twins = twins.clone();
        async move {
            let refused = twins.update_twin(update).await.err()?;
            Some((at, error(from_status(&refused))))
        }
    });
    errors.extend(join_all(updating).await.into_iter().flatten());
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
    let mut response = json(status, outcome)?;
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
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rows_are_read_as_the_sdks_write_them() {
        #[track_caller]
        fn check(
            row: Value,
            want: Result<(v1::RowMode, Option<&str>), ErrorCode>,
            operation: &str,
        ) {
            let rows = read(json!([row]).to_string().as_bytes()).expect("a row");
            let (row, twin) = rows.into_iter().next().expect("a row");
            assert_eq!(row.operation(), operation);
            let got = row.into_wire(twin).map(|asked| match asked {
                Asked::Identity(row) => (row.mode(), row.if_match),
                Asked::Twin(update) => (v1::RowMode::Unspecified, update.if_match),
            });
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
            json!({"id": "d", "importMode": "UpdateTwin", "eTag": "x", "twinETag": "y"}),
            Ok((M::Unspecified, None)),
            "updateTwin",
        );
        check(
            json!({"id": "d", "importMode": "UpdateTwinIfMatchETag", "twinETag": "\"y\""}),
            Ok((M::Unspecified, Some("y"))),
            "updateTwinIfMatchETag",
        );
        check(
            json!({"id": "d", "importMode": "updateTwinIfMatchETag", "eTag": "x"}),
            Err(ErrorCode::ArgumentNull),
            "updateTwinIfMatchETag",
        );
        check(json!({"id": "d", "deviceId": "d"}), Ok((M::CreateOrUpdate, None)), "createOrUpdate");
        check(
            json!({"id": "d", "deviceId": "e"}),
            Err(ErrorCode::ArgumentInvalid),
            "createOrUpdate",
        );
        check(json!({"importMode": "create"}), Err(ErrorCode::ArgumentInvalid), "create");
        check(
            json!({"id": "d", "moduleId": "a b", "importMode": "create"}),
            Err(ErrorCode::ArgumentInvalid),
            "create",
        );
    }

    #[test]
    fn twins_are_handed_on_as_they_were_written() {
        let said = r#"[{"id":"d","importMode":"MODE","tags":{"a": 1.0e0, "a": 2},
            "properties":{"desired": {"x": [0]}, "reported": {"y": 1}}}]"#;
        for (mode, whole) in [("create", true), ("updateTwin", true), ("delete", false)] {
            let rows = read(said.replace("MODE", mode).as_bytes()).expect("a row");
            let (row, twin) = rows.into_iter().next().expect("a row");
            let (tags, desired) = match row.into_wire(twin).expect("taken") {
                Asked::Identity(row) => (row.tags, row.desired),
                Asked::Twin(update) => (update.tags, update.desired),
            };
            let want = whole.then_some((r#"{"a": 1.0e0, "a": 2}"#, r#"{"x": [0]}"#));
            assert_eq!(tags.as_deref().zip(desired.as_deref()), want, "{mode}");
        }
        for bad in [r#"[{"properties":[]}]"#, r#"[{"tags":1,"tags":2}]"#, r#"[{"properties":1}]"#] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        let empty = r#"[{"id":"d","tags":null,"properties":{"desired":null}}]"#;
        let rows = read(empty.as_bytes()).expect("a row");
        assert_eq!(rows.into_iter().next().expect("a row").1, (None, None));
    }
}

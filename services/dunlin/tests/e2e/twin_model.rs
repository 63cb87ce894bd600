//! A twin that does one thing at a time, for what clients have seen to be compared with. It knows
//! nothing of the hub's code: JSON, RFC 7386, and what docs/twins.md says of versions.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// What a client asks of a twin. A part that is null is left out.
#[derive(Clone, Debug)]
pub enum Call {
    Get,
    Write {
        replace: bool,
        tags: Value,
        desired: Value,
        if_match: Option<String>,
    },
    /// The device's own twin.
    Read,
    Report {
        patch: Value,
        if_version: Option<u64>,
    },
    /// Asked by nobody: the device is told of a change.
    Told,
}

#[derive(Clone, Debug)]
pub enum Answer {
    /// As a back end gets it.
    Twin(Value),
    /// As its device gets it.
    Properties(Value),
    /// Of the reported properties.
    Version(u64),
    /// The condition did not hold.
    Stale,
    /// With its `$version`.
    Patch(Value),
}

/// A call with the ticks of a clock that all clients share.
#[derive(Clone, Debug)]
pub struct Event {
    pub call: Call,
    pub answer: Answer,
    pub start: u64,
    pub end: u64,
}

#[derive(Clone, Debug)]
pub struct State {
    pub version: u64,
    etag: u64,
    tags: Value,
    pub desired: Value,
    pub desired_version: u64,
    reported: Value,
    pub reported_version: u64,
}

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.as_object_mut().expect("an object").remove(key);
            }
            value => merge(&mut target[key], value),
        }
    }
}

/// The ETag of a twin that was changed so often by back ends, and made before.
pub fn etag_of(changes: u64) -> String {
    STANDARD.encode(changes.to_be_bytes())
}

pub fn with_version(properties: &Value, version: u64) -> Value {
    let mut properties = properties.clone();
    properties["$version"] = version.into();
    properties
}

/// What the model knows of a twin as a back end gets it.
fn seen(twin: &Value) -> Value {
    let mut properties = twin["properties"].clone();
    for part in ["desired", "reported"] {
        properties[part].as_object_mut().expect("an object").remove("$metadata");
    }
    let [version, etag, tags] = ["version", "etag", "tags"].map(|name| &twin[name]);
    json!({"version": version, "etag": etag, "tags": tags, "properties": properties})
}

impl Call {
    /// A change of nothing is none.
    fn is_empty(&self) -> bool {
        let nothing = |part: &Value| part.is_null() || *part == json!({});
        match self {
            Self::Get | Self::Read | Self::Told => true,
            Self::Write { replace, tags, desired, .. } => {
                !replace && nothing(tags) && nothing(desired)
            }
            Self::Report { patch, .. } => nothing(patch),
        }
    }
}

impl Event {
    /// It has changed the twin.
    pub fn wrote(&self) -> bool {
        !self.call.is_empty() && !matches!(self.answer, Answer::Stale)
    }
}

impl State {
    pub fn new() -> Self {
        let [tags, desired, reported] = [(); 3].map(|()| json!({}));
        let (version, etag, desired_version, reported_version) = (2, 1, 1, 1);
        Self { version, etag, tags, desired, desired_version, reported, reported_version }
    }

    pub fn twin(&self) -> Value {
        json!({
            "version": self.version, "etag": etag_of(self.etag), "tags": self.tags,
            "properties": self.properties(),
        })
    }

    pub fn properties(&self) -> Value {
        json!({
            "desired": with_version(&self.desired, self.desired_version),
            "reported": with_version(&self.reported, self.reported_version),
        })
    }

    /// The twin after that call, if its condition holds.
    pub fn after(&self, call: &Call) -> Option<Self> {
        let mut next = self.clone();
        match call {
            Call::Write { if_match: Some(etag), .. } if *etag != etag_of(self.etag) => return None,
            Call::Report { if_version: Some(version), .. } if *version != self.reported_version => {
                return None;
            }
            call if call.is_empty() => return Some(next),
            Call::Write { replace, tags, desired, .. } => {
                if *replace {
                    (next.tags, next.desired) = (json!({}), json!({}));
                }
                for (part, patch) in [(&mut next.tags, tags), (&mut next.desired, desired)] {
                    if !patch.is_null() {
                        merge(part, patch);
                    }
                }
                let changed = *replace || desired.as_object().is_some_and(|it| !it.is_empty());
                next.desired_version += u64::from(changed);
                next.etag += 1;
            }
            Call::Report { patch, .. } => {
                merge(&mut next.reported, patch);
                next.reported_version += 1;
            }
            Call::Get | Call::Read | Call::Told => unreachable!("empty"),
        }
        next.version += 1;
        Some(next)
    }

    /// Whether the call may have been answered so when the twin was like this: after it, if it was
    /// a write.
    pub fn explains(&self, event: &Event) -> bool {
        let holds = event.wrote() || self.after(&event.call).is_some();
        match &event.answer {
            Answer::Twin(twin) => holds && seen(twin) == self.twin(),
            Answer::Properties(properties) => *properties == self.properties(),
            Answer::Version(version) => holds && *version == self.reported_version,
            Answer::Stale => !holds,
            Answer::Patch(patch) => patch["$version"].as_u64() <= Some(self.desired_version),
        }
    }
}

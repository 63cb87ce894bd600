//! Twins: what a back end wants of a device, and what the device reports of itself. Pure: time and
//! limits are arguments, storing is somebody else's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{ErrorCode, HubError};
use crate::json::{Object, Path};

mod limits;
mod merge;
mod patch;
#[cfg(test)]
mod tests;

pub use limits::Limits;
use merge::{Stamp, difference, merge, size};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twin {
    /// Grows with each change of tags or desired properties.
    pub etag: u64,
    /// Grows with each change.
    pub version: u64,
    pub tags: Object,
    pub desired: Section,
    pub reported: Section,
    /// Of the newest connection that has reported; 0: none.
    pub reported_epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub properties: Object,
    /// `$metadata`: of the same shape as `properties`, but that an array has one entry.
    pub metadata: Object,
    pub version: u64,
}

/// The parts of a twin that clients write.
#[derive(Clone, Copy)]
enum Part {
    Tags,
    Desired,
    Reported,
}

/// What a back end asks for. It keeps the rules, or there is none.
#[derive(Clone, Debug)]
pub struct Update {
    if_match: Option<String>,
    replace: bool,
    tags: Option<Object>,
    desired: Option<Object>,
}

/// What a device reports. It keeps the rules, or there is none.
#[derive(Clone, Debug)]
pub struct Report {
    epoch: u64,
    if_version: Option<u64>,
    patch: Object,
}

impl Part {
    fn path(self) -> &'static str {
        match self {
            Self::Tags => "tags",
            Self::Desired => "properties.desired",
            Self::Reported => "properties.reported",
        }
    }

    fn bytes(self, limits: &Limits) -> usize {
        match self {
            Self::Tags => limits.tags_bytes,
            Self::Desired => limits.desired_bytes,
            Self::Reported => limits.reported_bytes,
        }
    }

    /// `current` after the change, if it is not too large then.
    fn change(
        self,
        current: &Object,
        patch: &Object,
        replace: bool,
        limits: &Limits,
    ) -> Result<Object, HubError> {
        let mut changed = if replace { Object::new() } else { current.clone() };
        merge(&mut changed, patch);
        let (bytes, most) = (size(&changed), self.bytes(limits));
        // One that was made under wider limits may still shrink.
        if bytes > most && bytes > size(current) {
            let why = format!("it would have {bytes} bytes, of at most {most}");
            return Err(Path::Root(self.path()).refuse(why));
        }
        Ok(changed)
    }
}

impl Update {
    /// Reads JSON objects. With `replace` they take the place of what is stored, and what is not
    /// given is emptied; without, they are merged into it. `if_match` is an ETag without quotes.
    pub fn read(
        if_match: Option<String>,
        replace: bool,
        tags: Option<&[u8]>,
        desired: Option<&[u8]>,
        limits: &Limits,
    ) -> Result<Self, HubError> {
        let read = |part, text: Option<&[u8]>| -> Result<Option<Object>, HubError> {
            let patch = text.map(|text| patch::read(part, text, limits)).transpose()?;
            // What is replaced by nothing is emptied; what is changed by nothing is left alone.
            Ok(if replace {
                Some(patch.unwrap_or_default())
            } else {
                patch.filter(|p| !p.is_empty())
            })
        };
        Ok(Self {
            if_match,
            replace,
            tags: read(Part::Tags, tags)?,
            desired: read(Part::Desired, desired)?,
        })
    }

    /// Whether it changes nothing at all.
    pub fn is_empty(&self) -> bool {
        self.tags.is_none() && self.desired.is_none()
    }

    /// Whether desired properties will have a new version, of which the device is told.
    pub fn changes_desired(&self) -> bool {
        self.desired.is_some()
    }
}

impl Report {
    /// Reads a JSON object. With `if_version` it counts only if that is the stored version.
    pub fn read(text: &[u8], if_version: Option<u64>, limits: &Limits) -> Result<Self, HubError> {
        Ok(Self { epoch: 0, if_version, patch: patch::read(Part::Reported, text, limits)? })
    }

    /// Made by the connection of this epoch: refused once a newer one has reported. 0: by none.
    pub fn of_connection(self, epoch: u64) -> Self {
        Self { epoch, ..self }
    }
}

impl Section {
    fn new(now: i64, versioned: bool) -> Self {
        let mut section = Self { properties: Object::new(), metadata: Object::new(), version: 0 };
        section.set(Object::new(), &Object::new(), now, versioned);
        section
    }

    /// `properties` is what `patch` makes of the current ones.
    fn set(&mut self, properties: Object, patch: &Object, now: i64, versioned: bool) {
        self.version += 1;
        self.properties = properties;
        let version = versioned.then_some(self.version);
        Stamp { time: time(now), version }.mark(&mut self.metadata, patch);
    }

    /// As a device reads it.
    fn with_version(&self) -> Object {
        with_version(self.properties.clone(), self.version)
    }
}

impl Twin {
    /// Of an identity that is made at `now` (Unix milliseconds).
    pub fn new(now: i64) -> Self {
        Self {
            etag: 1,
            version: 2,
            tags: Object::new(),
            desired: Section::new(now, true),
            reported: Section::new(now, false),
            reported_epoch: 0,
        }
    }

    /// The ETag as clients know it, without quotes.
    pub fn etag_text(&self) -> String {
        STANDARD.encode(self.etag.to_be_bytes())
    }

    /// Applies a back end's update, or refuses it and stays as it is. Returns the merge patch that
    /// the device is to be told, if desired properties were changed: a patch as it was given, a
    /// replacement as what it does.
    pub fn update(
        &mut self,
        update: &Update,
        now: i64,
        limits: &Limits,
    ) -> Result<Option<Object>, HubError> {
        if let Some(wanted) = &update.if_match
            && *wanted != self.etag_text()
        {
            let why = format!("the twin was changed since: its ETag is {}", self.etag_text());
            return Err(HubError::new(ErrorCode::PreconditionFailed, why));
        }
        let Update { replace, tags, desired, .. } = update;
        let change = |part: Part, current, patch: &Option<Object>| {
            let patch = patch.as_ref();
            patch.map(|patch| part.change(current, patch, *replace, limits)).transpose()
        };
        let new_tags = change(Part::Tags, &self.tags, tags)?;
        let new_desired = change(Part::Desired, &self.desired.properties, desired)?;
        if new_tags.is_none() && new_desired.is_none() {
            return Ok(None);
        }
        self.etag += 1;
        self.version += 1;
        if let Some(tags) = new_tags {
            self.tags = tags;
        }
        let (Some(properties), Some(patch)) = (new_desired, desired) else { return Ok(None) };
        let told = match replace {
            true => difference(&self.desired.properties, &properties),
            false => patch.clone(),
        };
        if *replace {
            self.desired.metadata.clear();
        }
        self.desired.set(properties, patch, now, true);
        Ok(Some(with_version(told, self.desired.version)))
    }

    /// Applies what a device reports, or refuses it and stays as it is. Returns whether there was
    /// anything to apply.
    pub fn report(&mut self, report: &Report, now: i64, limits: &Limits) -> Result<bool, HubError> {
        let Report { epoch, if_version, patch } = report;
        // It was sent before what the newer one sent, and only comes after it.
        if (1..self.reported_epoch).contains(epoch) {
            let why = "a newer connection of the device has reported since";
            return Err(HubError::new(ErrorCode::PreconditionFailed, why));
        }
        let version = self.reported.version;
        if if_version.is_some_and(|wanted| wanted != version) {
            let why = format!("the reported properties were changed since: version {version}");
            return Err(HubError::new(ErrorCode::PreconditionFailed, why));
        }
        if patch.is_empty() {
            return Ok(false);
        }
        let properties = Part::Reported.change(&self.reported.properties, patch, false, limits)?;
        self.reported.set(properties, patch, now, false);
        self.reported_epoch = self.reported_epoch.max(*epoch);
        self.version += 1;
        Ok(true)
    }

    /// `{"desired":{…},"reported":{…}}` as its device reads it: with versions, without metadata.
    pub fn properties(&self) -> Object {
        [("desired", &self.desired), ("reported", &self.reported)]
            .map(|(name, section)| (name.to_owned(), section.with_version().into()))
            .into_iter()
            .collect()
    }
}

fn with_version(mut object: Object, version: u64) -> Object {
    object.insert("$version".to_owned(), version.into());
    object
}

/// ISO 8601 with seven digits of a second, as the service writes it.
fn time(unix_millis: i64) -> String {
    format!("{:.7}", jiff::Timestamp::from_millisecond(unix_millis).unwrap_or_default())
}

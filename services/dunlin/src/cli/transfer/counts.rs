//! What was moved, in numbers.

use std::fmt;

use dunlin_storage::transfer::Row;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    pub(super) devices: u64,
    pub(super) modules: u64,
    /// C2D messages that are queued.
    pub(super) commands: u64,
    /// Records for the back end.
    pub(super) feedback: u64,
    /// Policies are one, CA certificates another.
    pub(super) settings: u64,
    /// All of them, and what belongs to them.
    pub(super) rows: u64,
}

impl Counts {
    pub(super) fn add(&mut self, row: &Row) {
        self.rows += 1;
        match row.table().name {
            "identity" if row.text("module_id").is_empty() => self.devices += 1,
            "identity" => self.modules += 1,
            "command" => self.commands += 1,
            "feedback" => self.feedback += 1,
            "setting" => self.settings += 1,
            _ => {}
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { devices, modules, commands, feedback, settings, .. } = self;
        write!(
            f,
            "devices {devices}, modules {modules}, C2D messages {commands}, feedback {feedback}, \
             settings {settings}"
        )
    }
}

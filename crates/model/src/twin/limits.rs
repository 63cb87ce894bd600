//! What a twin may hold: settings, because the hub of 2017 was stricter than today's.

use serde::{Deserialize, Serialize};

/// What twins may hold. The defaults are IoT Hub's of today; in brackets, those of 2017.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of `tags`: of its keys, its strings without control characters, 8 a number, 4 a
    /// boolean (2017: 8192).
    pub tags_bytes: usize,
    /// Bytes of `properties.desired`, counted in the same way (2017: 8192).
    pub desired_bytes: usize,
    /// Bytes of `properties.reported`, counted in the same way (2017: 8192).
    pub reported_bytes: usize,
    /// Objects and arrays below each other in one of the three, 64 at most (2017: 5).
    pub depth: usize,
    /// Bytes of a key (2017: 64).
    pub key_bytes: usize,
    /// Bytes of a string (2017: 512).
    pub string_bytes: usize,
    /// Whether there may be arrays (2017: false).
    pub arrays: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tags_bytes: 8 << 10,
            desired_bytes: 32 << 10,
            reported_bytes: 32 << 10,
            depth: 10,
            key_bytes: 1 << 10,
            string_bytes: 4 << 10,
            arrays: true,
        }
    }
}

impl Limits {
    /// What serde_json reads back ends at 128, and nothing of ours may recurse for long.
    const DEEPEST: usize = 64;

    pub(super) fn deepest(&self) -> usize {
        self.depth.min(Self::DEEPEST)
    }
}

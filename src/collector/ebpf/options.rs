//! What the collector takes from the settings.

use crate::config::{Filters, Settings};

/// What to load and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// All ring memory together, bytes.
    pub ring_bytes: u64,
    /// What the kernel side filters.
    pub filters: Filters,
    /// Names of probes that stay off.
    pub probes_off: Vec<String>,
    /// The bench-only `load` probe.
    pub load_probe: bool,
}

impl From<&Settings> for Options {
    fn from(settings: &Settings) -> Self {
        Self {
            ring_bytes: settings.ring_bytes,
            filters: settings.filters.clone(),
            probes_off: settings.probes_off.clone(),
            load_probe: settings.load_probe,
        }
    }
}

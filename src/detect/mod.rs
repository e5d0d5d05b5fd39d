//! From events to facts.

mod details;
mod fact;

pub use details::{COMMON_DETAILS, DETAILS, is_detail};
pub use fact::{
    EVENTS_MAX, EventId, FACT_KINDS, Fact, FactKind, FactKindInfo, KEYS_MAX, Key, KeyKind, Role, Subject,
    Value,
};

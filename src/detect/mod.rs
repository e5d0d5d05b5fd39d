//! From events to facts.

mod fact;

pub use fact::{
    EVENTS_MAX, EventId, FACT_KINDS, Fact, FactKind, FactKindInfo, KEYS_MAX, Key, KeyKind, Role, Subject,
    Value,
};

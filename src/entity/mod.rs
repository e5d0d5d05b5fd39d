//! Identity: which process, unit, container or pod an event is about, and its trace id.

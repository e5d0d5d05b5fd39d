//! From facts to incidents.

//! tapio-server: receive, store durably, ack, answer queries.

//! tapio-collector: a host agent that says what failed, why, and what it will take down next.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod collector;
pub mod config;
pub mod control;
pub mod detect;
pub mod egress;
pub mod engine;
pub mod entity;
pub mod event;
pub mod explain;
pub mod health;
pub mod ledger;
pub mod load;
pub mod logging;
pub mod metrics;
pub mod proto;
pub mod recording;
pub mod server;
pub mod sys;

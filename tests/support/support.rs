//! What the whole-system tests share: real brokers as processes, real peers, a watch on logs.
//!
//! Included by each test binary with `#[path = "../support/support.rs"] mod support;`. Peers are fetched once into the
//! cache directory and fail with the line to install what is missing; nothing is ever skipped.
#![allow(dead_code, clippy::panic, unreachable_pub, reason = "test support: each binary uses its share")]

pub mod broker;
pub mod cache;
pub mod cluster;
pub mod dice;
pub mod disk;
pub mod golang;
pub mod kafka;
pub mod kcat;
pub mod logs;
pub mod maven;
pub mod network;
pub mod node;
pub mod python;
pub mod s3;
pub mod tap;
pub mod trino;
pub mod wire;

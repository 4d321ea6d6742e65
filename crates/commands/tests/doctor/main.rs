//! `blockhost-provisioner-doctor`: each finding made by breaking a healthy lab on purpose, and gone when it is mended.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests start programs")]

mod access;
mod all_codes;
mod database;
mod fixes;
mod forms;
mod host;
mod limits;
mod node;
mod support;
mod unfinished;

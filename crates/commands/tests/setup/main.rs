//! The installer's steps: on the lab's node, and the bridge on real interfaces in a network namespace.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and make files")]

mod bare;
mod bridge;
mod certificates;
mod cloud_init;
mod detect_and_token;
mod files;
mod namespace;
mod sandbox;
mod synced;
#[path = "../crash/system_calls.rs"]
mod system_calls;
mod template;

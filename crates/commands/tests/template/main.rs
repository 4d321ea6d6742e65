//! The template on a lab node: built, replaced, refused, failed, killed. virt-customize is a stand-in here; the real one
//! has a suite of its own (`real_template`).
#![allow(clippy::disallowed_methods, reason = "tests start programs and make files")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod builds;
mod certificates;
mod downloads;
mod fails;
mod killed;
mod packages;
mod refusals;
mod remote;
mod site;
mod synced;
#[path = "../crash/system_calls.rs"]
mod system_calls;
mod web;

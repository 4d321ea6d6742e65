//! gc and resume: what is due, what is not, who comes between, and what is left when somebody dies.
//!
//! Most VMs here are not created but placed: a guest on the node and a record in the database. A destroy then goes
//! through the root agent; where terraform matters, the VM is created.
#![allow(clippy::disallowed_methods, reason = "tests start programs and make files")]
#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod audit_lines;
mod bad_agent;
mod bad_days;
mod brakes;
mod by_hand;
mod forms;
mod guards;
mod guests;
mod killed;
mod mock;
mod network_cleanup;
mod renewals;
mod resume;
mod running;
mod several;
mod support;
mod turns;

//! Creates and destroys that are killed, interrupted or run out of disk anywhere, and what the next command makes of it.
//!
//! Every test compares whole worlds: the node, the database, journal, terraform folders and queue, with identifiers
//! and times blotted out ([`world`]).
#![allow(clippy::disallowed_methods, reason = "tests start programs and make files")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod create_sweep;
mod destroy_sweep;
mod disk_full;
mod doctor_agrees;
mod late_agent;
mod late_request;
mod late_start;
mod signals;
mod site;
mod synced;
mod system_calls;
mod taken_meanwhile;
mod terraform_killed;
mod undo_fails;
mod world;

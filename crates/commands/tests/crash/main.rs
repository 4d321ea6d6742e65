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
mod import_sweep;
mod late_agent;
mod late_request;
mod late_start;
#[path = "../life/legacy_site.rs"]
#[allow(dead_code, reason = "the suite of the life of a VM uses more of it")]
mod legacy_site;
mod signals;
mod site;
mod synced;
mod system_calls;
mod taken_meanwhile;
mod terraform_killed;
mod undo_fails;
mod world;

/// What the hosts of the older package need of the other suite's support.
mod support {
    pub use test_support::{Ended, edit, read, run, write};

    /// More lines for db.yaml.
    pub fn add_settings(lab: &lab::Lab, lines: &str) {
        let path = lab.path("etc/blockhost/db.yaml");
        write(&path, &format!("{}{lines}\n", read(&path)));
    }
}

//! The life of a VM through the real commands, the real terraform and the lab's node, and what the contract fixes about
//! it byte for byte.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and make files")]

mod absence;
mod first_boot;
mod forms;
mod guard;
mod guests;
mod held;
mod held_by;
mod identity;
mod import;
mod import_faults;
mod legacy;
mod legacy_site;
mod node_says;
mod passing;
mod preview;
mod process;
mod queue;
mod starts;
mod states;
mod step_line;
mod support;
mod terraform;
mod terraform_lock;
mod turns;
mod unfinished;
mod vanished;
mod words;

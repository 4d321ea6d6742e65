//! The stand-in under the real terraform, against a small API of these tests' own.
//!
//! `conversation.rs`: the same calls as the real provider's. `failures.rs`: what goes wrong, and what is in
//! the state then. `plans.rs`: schema, refusals, replacement. `files.rs`: VMs with a snippet as a file
//! resource. `habits.rs`: what each release tries again, and its words. `faults.rs`: the named points, signals and kills.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]
#![allow(clippy::disallowed_methods, reason = "those doors are the product's")]

mod conversation;
mod failures;
mod faults;
mod files;
mod habits;
mod plans;
mod pve;
mod workdir;

//! A Proxmox node without Proxmox, for tests and for trying the commands by hand. Never packaged.
//!
//! One lab is one folder with everything in it: the node's files, its HTTPS API on loopback, a root agent, `qm` and
//! friends on a PATH of its own, terraform with a stand-in provider. Several labs run side by side.
//!
//! ```no_run
//! let lab = lab::Lab::builder().start()?;
//! let before = lab.control().snapshot()?;
//! let done = lab.command("blockhost-vm-list").output()?;
//! assert!(done.status.success());
//! assert_eq!(lab.control().snapshot()?, before);
//! # anyhow::Ok(())
//! ```
//!
//! Rooms, in reading order: [`model`] (the data that tests see), `node` (what there is and what can happen to it),
//! `api` and `tool` (who asks), `control` (the tests' door), `daemon` (the process), `harness` (labs from a test),
//! `cli` (labs by hand). What is imitated, and how exactly, stands at the head of each.

#![allow(
    clippy::disallowed_methods,
    reason = "the doors of the product are not the lab's: it is never part of it"
)]

mod api;
mod cli;
mod control;
mod daemon;
mod harness;
pub mod model;
mod node;
mod tool;

pub use cli::main;
pub use harness::{Control, Heard, Lab, LabBuilder, Outside, Shown, in_own_network};

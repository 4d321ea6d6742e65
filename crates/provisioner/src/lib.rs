//! Everything the `blockhost-vm-*` commands do, without argv, stdout or `exit()`.
//!
//! # The rooms, in reading order
//!
//! | room | subject | may use |
//! |---|---|---|
//! | [`value`] | what things are: names, ids, addresses, times; checked once, at the door | nothing of ours |
//! | [`plan`] | what should happen: pure functions of values, text and `now` | `value` |
//! | [`host`] | the only doors to the machine: processes, files, locks, sockets, HTTP, clock | `value` |
//! | [`store`] | what is remembered: settings, VM database, journal, queue of creates | `host`, `value`, `plan` |
//! | [`tool`] | one wrapper per outside tool: terraform, the root agent's actions | `store`, `plan`, `host`, `value` |
//! | [`operation`] | one file per verb, readable from top to bottom | all of the above |
//!
//! A reviewer watches `host/` for effects: clippy's `disallowed-methods` keeps processes, file writes, sockets and the
//! clock out of all other modules. Progress and warnings are `tracing` events; the commands decide where they go.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make their own files"))]

pub mod host;
pub mod operation;
pub mod plan;
pub mod store;
pub mod tool;
pub mod value;

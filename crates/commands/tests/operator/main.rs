//! What an operator looks at: lists in all their forms, one VM on a page, the audit trail. Each on a lab, on a database of
//! ten thousand VMs, and with names and texts that would like to command a terminal.
#![allow(clippy::disallowed_methods, reason = "tests start programs and make files")]
#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod capacity;
mod lists;
mod pages;
#[allow(dead_code, unused_imports, reason = "shared with the suite of guests, which uses more of it")]
#[path = "../guest/support.rs"]
mod support;
mod trail;
mod world;

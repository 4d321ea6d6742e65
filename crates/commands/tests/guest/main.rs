//! What is done inside guests (guest-exec, update-gecos), what is put back after a reboot of the node (reapply), and
//! the trail that all changes leave (audit): the real commands on a lab.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and make files")]

mod audit;
mod exec_cost;
mod exec_fails;
mod exec_passes_on;
mod gecos;
mod gecos_bytes;
mod gecos_fails;
mod metrics;
mod non_ascii;
mod reapply;
mod support;
mod throttle;
mod units;

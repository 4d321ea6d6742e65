//! One wrapper per outside tool, built on the doors of [`crate::host`].

pub mod guest_agent;
pub mod node;
pub mod terraform;
pub mod terraform_events;

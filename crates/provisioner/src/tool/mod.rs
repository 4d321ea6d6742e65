//! One wrapper per external tool, built on [`crate::host`].

pub mod guest_adoption;
pub mod guest_agent;
pub mod guest_config;
pub mod guest_guard;
pub mod guest_network;
pub mod guest_ports;
pub mod host_inventory;
pub mod ip;
pub mod legacy_state;
pub mod node;
pub mod proxmox_cli;
pub mod terraform;
pub mod terraform_events;
pub mod terraform_files;
pub mod terraform_state;
pub mod throttle;
pub mod virt_customize;
pub mod vm_state;

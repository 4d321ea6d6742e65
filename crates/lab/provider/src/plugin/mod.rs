//! The plugin's outer side: terraform's handshake and its gRPC, which know nothing of Proxmox.

pub mod serve;
pub mod wire;

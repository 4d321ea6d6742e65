//! The resource `proxmox_virtual_environment_vm`: a clone of a template, configured, resized and started.
//!
//! `create.rs`, `observe.rs` (refresh), `update.rs`, `delete.rs` are the operations, each readable from top
//! to bottom; `settings.rs` has what goes into the VM's configuration, `drive.rs` the strings of drives,
//! `agent.rs` the waiting for the guest's addresses, `number.rs` the VMID when none is given.
//!
//! What of the real provider is not here is refused by name ([`refuse_unknown_parts`]) rather than left
//! out silently.

mod agent;
mod create;
mod delete;
mod drive;
mod number;
mod observe;
mod settings;
mod update;

pub use create::create;
pub use delete::delete;
pub use number::Numbers;
pub use observe::{import, read};
pub use update::update;

use crate::{
    api::{Api, ApiError, Form, doubling, segment, text},
    diagnostic::Diagnostic,
    value::Value,
    version::LATER,
};
use serde_json::Value as Json;
use std::time::Duration;

/// One VM on its node.
struct Vm<'a> {
    api: &'a Api,
    node: String,
    id: i64,
}

impl Vm<'_> {
    fn path(&self, rest: &str) -> String {
        format!("/nodes/{}/qemu/{}/{rest}", segment(&self.node), self.id)
    }

    async fn config(&self) -> Result<Json, ApiError> {
        let config = self.api.get(&self.path("config")).await?;
        if config.is_object() { Ok(config) } else { Err(ApiError::NoData) }
    }

    async fn status(&self) -> Result<Json, ApiError> {
        let status = self.api.get(&self.path("status/current")).await?;
        if status.is_object() { Ok(status) } else { Err(ApiError::NoData) }
    }

    /// Changes the configuration; three tries while another holds the VM's lock file. The error is whole: it does not
    /// tell what the change was for, and since 0.101 not even that it was one.
    async fn configure(&self, form: &Form) -> Result<(), ApiError> {
        let path = self.path("config");
        let busy = |error: &ApiError| error.says("got timeout");
        let put = |_| self.api.put(&path, form);
        if self.api.version >= LATER {
            return self.api.again_telling(3, doubling(1.0), "", busy, put).await.map(|_| ());
        }
        let done = self.api.again(3, 1.0, busy, || put(1)).await;
        done.map(|_| ()).map_err(|error| ApiError::Other(format!("error updating VM: {error}")))
    }

    /// Looks once a poll until the VM has the status, or the deadline comes.
    async fn until(&self, wanted: &str) -> Result<(), ApiError> {
        let timeout = || {
            ApiError::Other(format!(
                "timeout while waiting for VM {} to enter the status {wanted:?}",
                self.id
            ))
        };
        loop {
            match self.status().await {
                Ok(status) if text(&status, "status") == wanted => return Ok(()),
                Ok(_) => {}
                Err(ApiError::Deadline) => return Err(timeout()),
                Err(error) => return Err(error),
            }
            self.api.pause(1.0).await.map_err(|_| timeout())?;
        }
    }
}

/// A timeout of the resource in seconds.
fn seconds(vm: &Value, key: &str, default: u64) -> Duration {
    Duration::from_secs(vm.int(key).and_then(|n| u64::try_from(n).ok()).unwrap_or(default))
}

/// Fails when the plan holds something the stand-in does not carry out: better than a VM that lacks it.
fn refuse_unknown_parts(vm: &Value) -> Result<(), Diagnostic> {
    const BLOCKS: [&str; 12] = [
        "amd_sev",
        "audio_device",
        "cdrom",
        "efi_disk",
        "hostpci",
        "numa",
        "rng",
        "tpm_state",
        "usb",
        "vga",
        "virtiofs",
        "watchdog",
    ];
    let refused = |what: String| {
        Err(Diagnostic::error(format!("the stand-in provider does not carry out {what} of a VM")))
    };
    if let Some(block) = BLOCKS.iter().find(|block| !vm.list(block).is_empty()) {
        return refused(format!("the block {block:?}"));
    }
    if vm.bool("template") == Some(true) || vm.bool("migrate") == Some(true) {
        return refused("\"template\" and \"migrate\"".into());
    }
    if vm.list("disk").iter().any(|disk| disk.text("file_id").or(disk.text("import_from")).is_some()) {
        return refused("\"file_id\" and \"import_from\" of a disk".into());
    }
    let memory = vm.block("memory");
    if memory.is_some_and(|m| m.text("hugepages").is_some() || m.int("shared").unwrap_or(0) != 0) {
        return refused("\"hugepages\" and \"shared\" of the memory".into());
    }
    let clone = vm.block("clone");
    if clone
        .and_then(|clone| clone.text("node_name"))
        .is_some_and(|source| Some(source) != vm.text("node_name"))
    {
        return refused("a clone from another node".into());
    }
    Ok(())
}

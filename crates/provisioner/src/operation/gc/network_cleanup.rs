//! What a network mode holds for a VM outside of it (a hidden service, an address of a broker's pool) is released before
//! gc destroys the VM: no engine is there to do it (`facts/contract/network-modes.md`).

use crate::host::run_process::{self, Input, Program};
use crate::operation::Context;
use crate::value::vm_record::VmRecord;
use std::time::Duration;

/// The dispatcher of blockhost-common; it finds the mode's plugin by the record.
const DISPATCHER: &str = "blockhost-network-hook";
/// How long it may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Runs the mode's clean-up, where the dispatcher is installed and the record has a mode. `Some`: it failed, and why;
/// that does not keep the VM. It can be repeated.
pub fn release(ctx: &Context<'_>, record: &VmRecord) -> Option<String> {
    let name = &record.name;
    let mode = ctx.database.inspect(|db| Ok(db.text_of_field(name.as_str(), "network_mode")));
    let mode = match mode {
        Ok(mode) => mode.filter(|mode| !mode.is_empty())?,
        Err(error) => return Some(format!("VM {name}: cannot read its network mode: {error:#}")),
    };
    run_process::find(DISPATCHER)?;
    let program = Program {
        name: DISPATCHER,
        arguments: vec!["cleanup".into(), name.as_str().into()],
        folder: &ctx.host.state_dir,
        environment: Vec::new(),
        without: &[],
    };
    let ended = run_process::run(&program, Input::Nothing, LIMIT, &ctx.host.interrupt, |_, _| {});
    let error = ended.and_then(|ended| ended.successful(&program)).err()?;
    Some(format!(
        "VM {name}: the cleanup of network mode {mode} failed, so its resources may be left over: {error}; run \
         {DISPATCHER} cleanup {name}"
    ))
}

//! Before gc destroys a VM, it releases what the network mode holds for it elsewhere (a hidden service, an address of a
//! broker's pool), since no engine is there to do so (`facts/contract/network-modes.md`).

use crate::host::run_process::{self, Input, Program};
use crate::operation::Context;
use crate::value::vm_record::VmRecord;
use std::time::Duration;

/// The dispatcher of blockhost-common, which finds the mode's plugin by the record.
const DISPATCHER: &str = "blockhost-network-hook";
/// Time limit for the cleanup.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Runs the mode's cleanup, if the dispatcher is installed and the record has a mode. `Some` contains why it failed,
/// which does not keep the VM from being destroyed. It may be repeated.
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
    let ended =
        run_process::run(ctx.host.doors, &program, Input::Nothing, LIMIT, &ctx.host.interrupt, |_, _| {});
    let error = ended.and_then(|ended| ended.successful(&program)).err()?;
    Some(format!(
        "VM {name}: the cleanup of network mode {mode} failed, so its resources may be left over: {error}; run \
         {DISPATCHER} cleanup {name}"
    ))
}

//! A create's turn: only a few work in parallel, in order of arrival (hazard H18).

use crate::host::clock::Deadline;
use crate::host::progress;
use crate::operation::locked_vm::LockedVm;
use crate::operation::{late_requests, recovery, restore};
use crate::store::provisioning_queue::Ticket;

/// A create's turn, which ends when this is dropped. What others left has been dealt with: dead creates are rolled
/// back, and lost records restored.
pub struct Turn<'h> {
    _ticket: Ticket<'h>,
}

impl<'h> Turn<'h> {
    /// Takes a ticket, waits for its turn, then deals with what others left.
    pub fn wait(vm: &LockedVm<'_, 'h>, deadline: Deadline) -> anyhow::Result<Turn<'h>> {
        let (ctx, name) = (vm.ctx(), vm.name());
        let ticket = Ticket::draw(ctx.host, name.as_str())?;
        ctx.host.step("create.queued")?;
        ticket.wait_turn(ctx.settings.max_parallel_creates, deadline, &mut |text| {
            tracing::info!("VM {name}: {text}")
        })?;
        ctx.host.step("create.turn")?;
        progress::now(format_args!("VM {name}: cleaning up after earlier commands"));
        recovery::undo_dead_creates(ctx, Some(name));
        late_requests::look_again(ctx);
        restore::vanished(ctx, Some(name));
        restore::keep_copies(ctx, false);
        Ok(Turn { _ticket: ticket })
    }
}

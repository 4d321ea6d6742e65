//! Whether a mock VM is on: its record in the mock database has a field for it, so that start, stop, kill, resume and
//! status agree with one another. No node is asked.

use super::Context;
use crate::value::vm_name::VmName;
use crate::value::vm_record::{Status, VmRecord};
use serde_json::Value;

const FIELD: &str = "mock_power";

/// Whether it is on. A suspended one is off.
pub fn is_on(ctx: &Context<'_>, record: &VmRecord) -> bool {
    let is_off = |name: &VmName| {
        let fields = ctx.database.look(|db| Ok(db.fields(name.as_str())));
        fields.is_ok_and(|fields| fields.is_some_and(|f| f.get(FIELD) == Some(&Value::from("off"))))
    };
    record.status == Status::Active && !is_off(&record.name)
}

/// Switches it; whether it was on before.
pub fn switch(ctx: &Context<'_>, record: &VmRecord, on: bool) -> anyhow::Result<bool> {
    let was_on = is_on(ctx, record);
    let name = record.name.as_str();
    ctx.database.update(|db| {
        match on {
            true => db.remove(name, FIELD),
            false => db.set(name, FIELD, &"off".into()),
        }
        Ok(())
    })?;
    Ok(was_on)
}

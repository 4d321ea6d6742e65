//! What an operation is doing right now, for a person who watches it on a terminal.
//!
//! These are events of a target of their own: the commands draw them as one line that changes, and only on a terminal.
//! They are no log: what must be on record is an event like any other.

/// The target of these events. It is below `provisioner`, so that a filter for the library's messages has it, too.
pub const TARGET: &str = "provisioner::progress";

/// Says what is being done from now on, and what is waited for: "VM web-1: waiting for the guest agent".
pub fn now(what: std::fmt::Arguments<'_>) {
    tracing::info!(target: "provisioner::progress", "{what}");
}

/// Nothing is being done any more: the line goes.
pub fn ended() {
    tracing::info!(target: "provisioner::progress", "");
}

//! What is stored: settings (read only), the VM database (shared with others), the journal and the queue of creates.

pub mod audit;
pub mod audit_trail;
pub mod document;
pub mod failed_logs;
pub mod guard_files;
pub mod journal;
pub mod metric_samples;
pub mod node_access;
pub mod provisioning_queue;
pub mod record_copy;
pub mod settings;
pub mod side_files;
pub mod tfvars;
pub mod vm_database;
pub mod vm_lock;
pub mod withheld_vmids;

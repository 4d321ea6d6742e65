//! What should happen: pure functions of values, text and `now`.

pub mod allocation;
pub mod cloud_init;
pub mod create_vm;
pub mod garbage_collection;
pub mod guard;
pub mod guest_command;
pub mod metrics;
pub mod privileges;
pub mod substitution;
pub mod template_image;
pub mod terraform_json;
pub mod vm_record;
pub mod yaml_keys;

//! What should happen: pure functions of values, text and `now`.

pub mod address_proposal;
pub mod allocation;
pub mod bridge_goal;
pub mod bridge_losses;
pub mod cloud_init;
pub mod connectivity;
pub mod create_vm;
pub mod db_yaml;
pub mod doctor;
pub mod garbage_collection;
pub mod guard;
pub mod guest_bridge;
pub mod guest_command;
pub mod installer_offer;
pub mod interfaces_file;
pub mod metrics;
pub mod privileges;
pub mod service_paths;
pub mod substitution;
pub mod template_image;
pub mod terraform_json;
pub mod terraform_settings;
pub mod throttle;
pub mod vm_record;
pub mod yaml_keys;

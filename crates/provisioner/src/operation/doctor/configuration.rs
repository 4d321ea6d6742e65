//! Our configuration files: whether they can be used, and keys that nobody reads.

use crate::host::Host;
use crate::operation::node_cloud_init;
use crate::plan::doctor::Finding;
use crate::plan::doctor::configuration::{misspelt, misspelt_in_tfvars};
use crate::plan::doctor::kinds::*;
use crate::store::document::Document;
use crate::store::settings::Settings;
use crate::store::side_files;
use crate::store::tfvars::Tfvars;
use std::path::Path;

/// The settings, where they can be used, and what is wrong.
pub fn read(host: &Host) -> (Option<Settings>, Vec<Finding>) {
    let path = host.config_file("db.yaml");
    let mut found = Vec::new();
    if let Some(danger) = node_cloud_init::danger(host) {
        let mend = "blockhost-provisioner-setup cloud-init";
        found.push(Finding::new(&NODE_CLOUD_INIT, "/etc/cloud", danger, mend));
    }
    let settings = match Settings::read(host) {
        Ok(settings) => settings,
        Err(error) => {
            let mend = "correct it, or write it anew: blockhost-provisioner-setup db_config";
            found.push(Finding::new(&CONFIGURATION_UNUSABLE, path.display(), format!("{error:#}"), mend));
            return (None, found);
        }
    };
    if let Ok(document) = Document::read_yaml(&path) {
        found.extend(misspelt(&path.display().to_string(), document.root()));
    }
    let tfvars = settings.terraform_dir.join("terraform.tfvars");
    if let Ok(vars) = Tfvars::read(&tfvars) {
        found.extend(misspelt_in_tfvars(&tfvars.display().to_string(), vars.keys()));
    }
    for missing in [settings.vmid_range().err(), settings.ipv4_pool().err()].into_iter().flatten() {
        let mend = format!("add the key to {}", path.display());
        found.push(Finding::new(&CONFIGURATION_INCOMPLETE, path.display(), missing, mend));
    }
    side_files(host, &settings, &mut found);
    (Some(settings), found)
}

/// What create reads beside db.yaml.
fn side_files(host: &Host, settings: &Settings, found: &mut Vec<Finding>) {
    let mut note = |place: &Path, result: anyhow::Result<()>| {
        if let Err(error) = result {
            let mend = "correct the file that the message names";
            found.push(Finding::new(&SIDE_FILE_UNUSABLE, place.display(), format!("{error:#}"), mend));
        }
    };
    note(&host.config_file("broker-allocation.json"), settings.broker(host).map(drop));
    note(&host.config_file("web3-defaults.yaml"), side_files::one_time_password(host).map(drop));
    note(Path::new("/etc/resolv.conf"), side_files::name_servers(settings).map(drop));
    let modes = host.config_file("network-modes.enabled");
    // Several are no mistake: whoever creates a VM chooses one.
    let several = |error: &anyhow::Error| error.to_string().contains("several network modes");
    let mode = side_files::network_mode(host, None).map(drop);
    note(&modes, mode.or_else(|error| if several(&error) { Ok(()) } else { Err(error) }));
}

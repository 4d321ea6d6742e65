//! Step terraform: first the key pair that the installer's system check requires, then the files in the terraform
//! directory and `terraform init`.

use super::{Setup, sandbox, terraform_folder};
use crate::tool::proxmox_cli::ProxmoxCli;
use crate::value::token::ApiToken;
use anyhow::Context as _;
use std::time::Duration;

pub(super) fn run(setup: &Setup<'_>) -> anyhow::Result<()> {
    let path = setup.configuration_file("pve-token");
    let text = crate::host::read_file::text_for_people(&path).context("the step token comes first")?;
    let token = ApiToken::parse(&text).with_context(|| path.display().to_string())?;
    let node = match &setup.choices.node {
        Some(node) => node.to_string(),
        None => ProxmoxCli::here(setup.host, setup.host.deadline(Duration::from_secs(20))).node_name()?,
    };
    super::ssh_key::make(setup)?;
    setup.host.step("setup.terraform.key")?;
    terraform_folder::set_up(setup, &token, &node)?;
    sandbox::write(setup, &sandbox::places(setup)?, setup.choices.terraform_dir_now.as_deref())
}

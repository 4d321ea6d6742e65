//! Step token: pool, roles, user, token and permissions, in this order; then the two files that contain the token.
//!
//! The token is separated from its user (`privsep 1`): it may do only what both its own permissions *and* its user's
//! allow, so an existing user with more privileges does not pass them on (hazard H29).

use super::{Setup, terraform_folder};
use crate::host::proxmox_api::{ApiError, ProxmoxApi};
use crate::host::replace_file::{self, PRIVATE};
use crate::plan::privileges::{self, Grant, Reach};
use crate::store::node_access::endpoint_or_local;
use crate::tool::proxmox_cli::ProxmoxCli;
use crate::value::node_name::NodeName;
use crate::value::token::ApiToken;
use anyhow::Context as _;
use std::time::Duration;

/// Enough for about twenty calls of `pveum`, one second each.
const LIMIT: Duration = Duration::from_secs(240);
const UNDO_LIMIT: Duration = Duration::from_secs(60);
/// Name of the token under its user.
const NAME: &str = "provisioner";

/// What this run has made or changed; rolled back if the step fails.
#[derive(Default)]
struct Made {
    /// `pveum` calls that remove what was made, to be run in reverse order.
    undo: Vec<Vec<String>>,
    /// The previous token in `terraform.tfvars`, once that has been changed.
    in_tfvars: Option<ApiToken>,
}

impl Made {
    fn push(&mut self, undo: &[&str]) {
        self.undo.push(undo.iter().map(|word| (*word).to_owned()).collect());
    }

    fn take_back(self, setup: &Setup<'_>, cli: &ProxmoxCli) -> Vec<String> {
        let calls = self.undo.iter().rev().map(|call| call.iter().map(String::as_str).collect::<Vec<_>>());
        let tools = calls.filter_map(|call| cli.run("pveum", &call).err().map(|error| error.to_string()));
        let former = self.in_tfvars.iter().map(|token| terraform_folder::set_token(setup, token));
        tools.chain(former.filter_map(|done| done.err().map(|error| format!("{error:#}")))).collect()
    }
}

pub(super) fn run(setup: &Setup<'_>) -> anyhow::Result<()> {
    let mut made = Made::default();
    let cli = ProxmoxCli::here(setup.host, setup.host.deadline(LIMIT));
    let Err(error) = grant_and_write(setup, &cli, &mut made) else { return Ok(()) };
    match made.take_back(setup, &cli.undoing(UNDO_LIMIT)) {
        left if left.is_empty() => Err(error),
        left => Err(error.context(format!("and rolling back failed ({})", left.join("; ")))),
    }
}

fn grant_and_write(setup: &Setup<'_>, cli: &ProxmoxCli, made: &mut Made) -> anyhow::Result<()> {
    let choices = &setup.choices;
    let pool = choices.pve_pool.as_ref().context(
        "db.yaml sets pve_pool to an empty text: the token is granted rights on a pool, so name one",
    )?;
    let node = match &choices.node {
        Some(node) => node.clone(),
        None => NodeName::parse(&cli.node_name()?)?,
    };
    make_pool(cli, pool.as_str(), made)?;
    setup.host.step("setup.token.pool")?;
    set_roles(cli, made)?;
    setup.host.step("setup.token.roles")?;
    make_user(cli, choices.user.as_str(), made)?;
    setup.host.step("setup.token.user")?;
    let (token, fresh) = make_token(setup, cli, made)?;
    setup.host.step("setup.token.made")?;
    let mut storages = vec![&choices.storage];
    storages.extend(&choices.more_storages);
    let reach = Reach { pool, template: choices.template, storages, bridge: &choices.bridge, node: &node };
    set_rules(cli, choices.user.as_str(), token.id(), &reach.grants())?;
    setup.host.step("setup.token.granted")?;
    if fresh {
        check(setup, &token)?;
    }
    // `terraform.tfvars` comes first: until `pve-token`, which takes precedence, is written, the commands continue with
    // the previous token.
    made.in_tfvars = terraform_folder::token(&setup.choices.terraform_dir);
    terraform_folder::set_token(setup, &token)?;
    setup.host.step("setup.token.tfvars")?;
    write(setup, &token)
}

fn make_pool(cli: &ProxmoxCli, pool: &str, made: &mut Made) -> anyhow::Result<()> {
    if cli.has_pool(pool)? {
        return Ok(());
    }
    cli.run("pveum", &["pool", "add", pool, "--comment", "VMs of BlockHost"])?;
    made.push(&["pool", "delete", pool]);
    Ok(())
}

fn set_roles(cli: &ProxmoxCli, made: &mut Made) -> anyhow::Result<()> {
    let known = cli.roles()?;
    for role in privileges::roles(cli.release()?) {
        let wanted = role.privileges.join(",");
        match known.iter().find(|row| row.name.as_deref() == Some(role.name)) {
            Some(row) if same_set(row.privileges.as_deref().unwrap_or_default(), &wanted) => {}
            Some(_) => {
                cli.run("pveum", &["role", "modify", role.name, "--privs", &wanted])?;
            }
            None => {
                cli.run("pveum", &["role", "add", role.name, "--privs", &wanted])?;
                made.push(&["role", "delete", role.name]);
            }
        }
    }
    Ok(())
}

fn same_set(one: &str, other: &str) -> bool {
    let sorted = |text: &str| {
        let mut words: Vec<String> =
            text.split([',', ' ', ';']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
        words.sort();
        words
    };
    sorted(one) == sorted(other)
}

fn make_user(cli: &ProxmoxCli, user: &str, made: &mut Made) -> anyhow::Result<()> {
    if cli.has_user(user)? {
        return Ok(());
    }
    cli.run("pveum", &["user", "add", user, "--comment", "BlockHost provisioner"])?;
    made.push(&["user", "delete", user]);
    Ok(())
}

/// Returns the token, and whether it is new. An existing token is kept while its secret is in our file and the node
/// accepts it; Proxmox shows a secret only once, so a token whose secret is lost is replaced.
fn make_token(setup: &Setup<'_>, cli: &ProxmoxCli, made: &mut Made) -> anyhow::Result<(ApiToken, bool)> {
    let user = setup.choices.user.as_str();
    let known = cli.tokens(user)?.into_iter().find(|token| token.name.as_deref() == Some(NAME));
    if let Some(known) = known {
        if let Some(token) = token_on_disk(setup, &format!("{user}!{NAME}"))? {
            if !known.is_separated {
                cli.run("pveum", &["user", "token", "modify", user, NAME, "--privsep", "1"])?;
            }
            return Ok((token, false));
        }
        // Works in every release, unlike `modify --regenerate`.
        cli.run("pveum", &["user", "token", "delete", user, NAME])?;
    }
    let secret = cli.add_token(user, NAME, || made.push(&["user", "token", "delete", user, NAME]))?;
    Ok((ApiToken::parse(&format!("{user}!{NAME}={secret}"))?, true))
}

/// Returns the token in our file, if it is this one and the node does not refuse it.
fn token_on_disk(setup: &Setup<'_>, id: &str) -> anyhow::Result<Option<ApiToken>> {
    let path = setup.configuration_file("pve-token");
    if !path.exists() {
        return Ok(None);
    }
    let Ok(token) = ApiToken::parse(&crate::host::read_file::text_for_people(&path)?) else {
        return Ok(None);
    };
    if token.id() != id {
        tracing::info!(
            "the token {} is no longer used; if nothing else needs it, remove it (pveum user token delete)",
            token.id()
        );
        return Ok(None);
    }
    match ask_version(setup, &token) {
        Err(ApiError::BadToken { .. }) => Ok(None),
        Err(error) => Err(anyhow::Error::new(error).context("cannot tell whether the token is still valid")),
        Ok(()) => Ok(Some(token)),
    }
}

/// Checks that the node accepts a new token.
fn check(setup: &Setup<'_>, token: &ApiToken) -> anyhow::Result<()> {
    Ok(ask_version(setup, token)?)
}

fn ask_version(setup: &Setup<'_>, token: &ApiToken) -> Result<(), ApiError> {
    let endpoint = endpoint_or_local(&setup.choices.terraform_dir);
    let certificates = setup.host.config_file("pve-ca.pem");
    let api = ProxmoxApi::new(setup.host.doors, &endpoint, token.clone(), Some(certificates))
        .map_err(|error| ApiError::Unreachable { endpoint, why: error.to_string() })?;
    api.get("/version", setup.host.deadline(Duration::from_secs(15))).map(drop)
}

/// Sets our permissions for user and token, and removes those of ours that are no longer wanted (for example, after
/// another storage was chosen). Permissions with other roles belong to other people.
fn set_rules(cli: &ProxmoxCli, user: &str, token: &str, grants: &[Grant]) -> anyhow::Result<()> {
    let rows = cli.acl()?;
    let held = |subject: &str, grant: &Grant| {
        rows.iter().any(|row| {
            text(&row.subject) == subject && text(&row.path) == grant.path && text(&row.role) == grant.role
        })
    };
    for grant in grants.iter().filter(|grant| !held(user, grant) || !held(token, grant)) {
        let call = ["acl", "modify", &grant.path, "--users", user, "--tokens", token, "--roles", grant.role];
        cli.run("pveum", &call)?;
    }
    for row in &rows {
        let (path, role, subject) = (text(&row.path), text(&row.role), text(&row.subject));
        let ours = (subject == user || subject == token) && role.starts_with(privileges::ROLE_PREFIX);
        if ours && !grants.iter().any(|grant| grant.path == path && grant.role == role) {
            let kind = if subject == token { "--tokens" } else { "--users" };
            cli.run("pveum", &["acl", "delete", path, kind, subject, "--roles", role])?;
        }
    }
    Ok(())
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

fn write(setup: &Setup<'_>, token: &ApiToken) -> anyhow::Result<()> {
    let path = setup.configuration_file("pve-token");
    let line = format!("{}\n", token.reveal());
    replace_file::make_folder(setup.host.doors, &setup.host.config_dirs[0], 0o755)?;
    Ok(replace_file::replace_as(
        setup.host.doors,
        &path,
        line.as_bytes(),
        PRIVATE,
        setup.configuration_owner(),
        "pve-token",
    )?)
}

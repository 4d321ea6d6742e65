//! `blockhost-vm-update-gecos`: records the VM's owner in the guest's own user database.

use super::Context;
use super::machine::{self, Machine};
use crate::host::clock::Deadline;
use crate::host::root_agent::{AgentError, with_way_out};
use crate::tool::guest_agent;
use crate::tool::node::Node;
use crate::value::text::UserName;
use crate::value::vm_name::VmName;
use crate::value::wallet::{NftTokenId, WalletAddress};
use anyhow::Context as _;
use std::time::Duration;

/// Engines kill this command after 30 s.
const LIMIT: Duration = Duration::from_secs(25);
/// How long to wait for usermod to begin, and then for it to end, before reading the guest.
const BEGIN: Duration = Duration::from_secs(8);

/// Sets the user's GECOS to `wallet=<wallet>,nft=<id>` and reads it back before reporting success. The user is
/// `username`, otherwise the one in the record, otherwise `admin`. Returns the value that the guest has now.
pub fn update_gecos(
    ctx: &Context<'_>,
    name: &VmName,
    wallet: &WalletAddress,
    token: &NftTokenId,
    username: Option<&UserName>,
) -> anyhow::Result<String> {
    let deadline = ctx.host.deadline_of("update-gecos", LIMIT);
    let gecos = format!("wallet={wallet},nft={token}");
    ctx.live_record(name)?;
    let vm = ctx.lock_vm(name, "update-gecos", deadline.left() / 2)?;
    let record = vm.live_record_now()?;
    let user = match (username, &record.username) {
        (Some(user), _) => user.clone(),
        (None, Some(user)) => {
            UserName::parse(user).with_context(|| format!("VM {name}: its record's username"))?
        }
        (None, None) => UserName::parse("admin")?,
    };
    let machine = machine::of_record(&vm, record, deadline)?;
    let update =
        Update { node: ctx.node(), label: machine.label(), machine: &machine, user, gecos, deadline };
    update.write()?;
    ctx.host.step("gecos.written")?;
    update.read_back()
}

/// A change of one user's GECOS.
struct Update<'m> {
    node: Node,
    machine: &'m Machine,
    label: String,
    user: UserName,
    gecos: String,
    deadline: Deadline,
}

impl Update<'_> {
    /// Requests the change. An unknown outcome is not an error here: the value read back from the guest decides (H48).
    fn write(&self) -> anyhow::Result<()> {
        let Update { node, machine, label, user, deadline, .. } = self;
        let (vmid, identity) = (machine.vmid, &machine.identity);
        let asked = node.update_gecos(vmid, identity, user, &self.gecos, *deadline);
        let mut slow = false;
        let asked = asked.and_then(|answer| {
            slow = guest_agent::is_job(&answer);
            guest_agent::until_begun(node, vmid, identity, answer, deadline.at_most(BEGIN))
        });
        match asked {
            // The change may have been made, or may still be made later.
            Err(error) if error.outcome_unknown() => {
                tracing::warn!("{label}: {error}; reading the current value from the guest");
            }
            Err(AgentError::Said { error, .. }) => {
                anyhow::bail!("{label}: failed to change the GECOS of user {user}: {}", with_way_out(&error));
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("{label}: failed to change the GECOS of user {user}"));
            }
            Ok(answer) if guest_agent::is_job(&answer) => {
                tracing::warn!(
                    "{label}: the node is busy and qm has not answered; reading the current value from the \
                    guest"
                );
            }
            // usermod is still running. If it fails, its error output is the better message; but waiting for its end
            // alone is not enough.
            Ok(answer) if answer.contains_key("pid") && !slow => {
                let ended = guest_agent::end_of(node, vmid, identity, &answer, deadline.at_most(BEGIN));
                if let Ok(Some(ended)) = ended
                    && ended.exit_code != 0
                {
                    anyhow::bail!(
                        "{label}: failed to change the GECOS of user {user}: usermod in the guest failed with exit \
                         code {}: {}; to choose another user, use --username",
                        ended.exit_code,
                        String::from_utf8_lossy(&ended.stderr).trim()
                    );
                }
            }
            Ok(_) => {}
        }
        Ok(())
    }

    /// Reads the value until it is the new one or time runs out, since usermod may still be running when the request
    /// has ended.
    fn read_back(self) -> anyhow::Result<String> {
        let Update { node, machine, label, user, gecos, deadline } = self;
        let command = format!("getent passwd {user}");
        let mut found = None;
        while !deadline.passed() {
            let read =
                guest_agent::run(&node, machine.vmid, &machine.identity, &command, deadline, Duration::ZERO);
            if let Err(error) = &read
                && deadline.passed()
            {
                tracing::debug!("{label}: {error:#}");
                break;
            }
            match read.with_context(|| format!("{label}: cannot read back the GECOS of user {user}"))? {
                None => break,
                Some(ended) => {
                    let line = String::from_utf8_lossy(&ended.stdout);
                    match line.trim_end().split(':').nth(4).map(str::to_string) {
                        Some(there) if there == gecos => return Ok(gecos),
                        Some(there) => found = Some(there),
                        None => anyhow::bail!(
                            "{label}: the guest has no user {user} (getent exited with {})",
                            ended.exit_code
                        ),
                    }
                }
            }
            node.pause(Duration::from_millis(300).min(deadline.left()))?;
        }
        let has = found
            .map_or_else(|| "the guest did not answer".to_string(), |it| format!("the guest has {it:?}"));
        anyhow::bail!("{label}: the GECOS of user {user} should be {gecos:?}, but {has}; try again later")
    }
}

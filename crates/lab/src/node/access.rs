//! Users, roles, access rules and API tokens: enough that privileges are really checked.

use std::collections::{BTreeMap, BTreeSet};

use super::refusal::{Outcome, Refusal};
use crate::model::NodeOptions;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// `root@pam` itself: the tools on the node.
    Root,
    /// An API token.
    Token {
        /// `user@realm!name`.
        id: String,
        /// `user@realm`.
        user: String,
        /// Rights are the intersection of the token's and the user's.
        privsep: bool,
    },
}

impl Caller {
    /// As task ids name it.
    pub fn user(&self) -> &str {
        match self {
            Self::Root => "root@pam",
            Self::Token { id, .. } => id,
        }
    }
}

/// A token of a user.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub secret: String,
    pub privsep: bool,
}

/// One access rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub path: String,
    /// User or token.
    pub subject: String,
    pub role: String,
    pub propagate: bool,
}

/// The access configuration.
#[derive(Debug, Default)]
pub(crate) struct Access {
    pub users: BTreeMap<String, String>,
    pub tokens: BTreeMap<String, Token>,
    pub roles: BTreeMap<String, BTreeSet<String>>,
    pub rules: Vec<Rule>,
    pve: u32,
}

const COMMON: &[&str] = &[
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
    "Group.Allocate",
    "Mapping.Audit",
    "Mapping.Modify",
    "Mapping.Use",
    "Permissions.Modify",
    "Pool.Allocate",
    "Pool.Audit",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "SDN.Allocate",
    "SDN.Audit",
    "SDN.Use",
    "Sys.AccessNetwork",
    "Sys.Audit",
    "Sys.Console",
    "Sys.Incoming",
    "Sys.Modify",
    "Sys.PowerMgmt",
    "Sys.Syslog",
    "User.Modify",
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.Console",
    "VM.Migrate",
    "VM.PowerMgmt",
    "VM.Snapshot",
    "VM.Snapshot.Rollback",
];
const ONLY_8: &[&str] = &["VM.Monitor"];
const ONLY_9: &[&str] = &[
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead",
    "VM.GuestAgent.FileSystemMgmt",
    "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
    "VM.Replicate",
];

/// What the installer's token step grants on the pool.
const OURS: &[&str] = &[
    "Pool.Audit",
    "VM.Allocate",
    "VM.Audit",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.PowerMgmt",
];

/// The privileges this version knows.
pub(crate) fn privileges(pve: u32) -> impl Iterator<Item = &'static str> {
    COMMON.iter().chain(if pve >= 9 { ONLY_9 } else { ONLY_8 }).copied()
}

impl Access {
    /// The node as the installer leaves it: pool, roles, token, rules.
    pub fn new(options: &NodeOptions) -> Self {
        let mut access = Self { pve: options.pve, ..Self::default() };
        let all: Vec<&str> = privileges(options.pve).collect();
        access.role("Administrator", &all);
        let vm: Vec<&str> = all.iter().copied().filter(|privilege| privilege.starts_with("VM.")).collect();
        access.role("PVEVMAdmin", &vm);
        access.role("PVEAuditor", &["VM.Audit", "Datastore.Audit", "Sys.Audit", "Pool.Audit", "SDN.Audit"]);
        access.role("PVEDatastoreUser", &["Datastore.AllocateSpace", "Datastore.Audit"]);
        access.role("PVESDNUser", &["SDN.Use", "SDN.Audit"]);
        access.role("NoAccess", &[]);
        let mut ours = OURS.to_vec();
        ours.push(if options.pve >= 9 { "VM.GuestAgent.Audit" } else { "VM.Monitor" });
        access.role("BlockHost", &ours);
        access.role("BlockHostTemplate", &["VM.Clone", "VM.Audit"]);
        access.role("BlockHostStorage", &["Datastore.AllocateSpace", "Datastore.Audit"]);
        access.role("BlockHostAudit", &["Sys.Audit", "Datastore.Audit"]);
        access.role("BlockHostNetwork", &["SDN.Use"]);
        access.users.insert("root@pam".into(), String::new());
        let user = options.token_id.split('!').next().unwrap_or_default().to_owned();
        access.users.insert(user.clone(), String::new());
        let token = Token { secret: options.token_secret.clone(), privsep: false };
        access.tokens.insert(options.token_id.clone(), token);
        if options.token_may_all {
            access.grant("/", &user, "Administrator", true);
        } else {
            access.grant("/pool/blockhost", &user, "BlockHost", true);
            if let Some(template) = options.template {
                access.grant(&format!("/vms/{template}"), &user, "BlockHostTemplate", true);
            }
            access.grant("/storage/local-lvm", &user, "BlockHostStorage", true);
            access.grant("/storage/local", &user, "BlockHostAudit", true);
            access.grant("/sdn/zones/localnetwork/vmbr0", &user, "BlockHostNetwork", true);
            access.grant(&format!("/nodes/{}", options.node), &user, "BlockHostAudit", true);
        }
        access
    }

    fn role(&mut self, name: &str, privileges: &[&str]) {
        self.roles.insert(name.into(), privileges.iter().map(|text| (*text).to_owned()).collect());
    }

    /// Adds or changes a role.
    ///
    /// # Errors
    /// A privilege that this version does not know.
    pub fn set_role(&mut self, name: &str, wanted: &[&str]) -> Outcome<()> {
        for privilege in wanted {
            if !privileges(self.pve).any(|known| known == *privilege) {
                return Err(Refusal::parameter("privs", format!("invalid privilege '{privilege}'")));
            }
        }
        self.role(name, wanted);
        Ok(())
    }

    /// Adds an access rule.
    pub fn grant(&mut self, path: &str, subject: &str, role: &str, propagate: bool) {
        let rule = Rule { path: path.into(), subject: subject.into(), role: role.into(), propagate };
        if !self.rules.contains(&rule) {
            self.rules.push(rule);
        }
    }

    /// The caller of an `Authorization` header's token.
    ///
    /// # Errors
    /// 401 for an unknown token or a wrong secret.
    pub fn authenticate(&self, header: Option<&str>) -> Outcome<Caller> {
        let failed = |text: &str| {
            let text = if self.pve >= 9 { "Authentication failed!" } else { text };
            Refusal::with_code(401, text)
        };
        let token = header
            .and_then(|header| header.strip_prefix("PVEAPIToken"))
            .and_then(|rest| rest.strip_prefix(['=', ' ']))
            .ok_or_else(|| failed("No ticket"))?;
        let (id, secret) = token.rsplit_once('=').ok_or_else(|| failed("invalid API token"))?;
        let known = self.tokens.get(id).ok_or_else(|| failed(&format!("no such token '{id}'")))?;
        if known.secret != secret {
            return Err(failed("invalid token value!"));
        }
        let user = id.split('!').next().unwrap_or_default().to_owned();
        Ok(Caller::Token { id: id.into(), user, privsep: known.privsep })
    }

    /// Whether the caller has a privilege on a path; `pool` is the pool of the guest that the path names.
    pub fn may(&self, caller: &Caller, path: &str, pool: Option<&str>, privilege: &str) -> bool {
        match caller {
            Caller::Root => true,
            Caller::Token { id, user, privsep } => {
                let user_may = user == "root@pam" || self.subject_may(user, path, pool, privilege);
                user_may && (!privsep || self.subject_may(id, path, pool, privilege))
            }
        }
    }

    fn subject_may(&self, subject: &str, path: &str, pool: Option<&str>, privilege: &str) -> bool {
        self.path_may(subject, path, privilege)
            || pool.is_some_and(|pool| self.path_may(subject, &format!("/pool/{pool}"), privilege))
    }

    /// The rules of the deepest level that has any win over those above it.
    fn path_may(&self, subject: &str, path: &str, privilege: &str) -> bool {
        let mut levels = vec!["/".to_owned()];
        let mut level = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            level = format!("{level}/{part}");
            levels.push(level.clone());
        }
        let deepest = levels.last().cloned().unwrap_or_default();
        let mut may = false;
        for level in levels {
            let here: Vec<&Rule> = self
                .rules
                .iter()
                .filter(|rule| rule.path == level && rule.subject == subject)
                .filter(|rule| rule.propagate || level == deepest)
                .collect();
            if !here.is_empty() {
                may = here
                    .iter()
                    .any(|rule| self.roles.get(&rule.role).is_some_and(|role| role.contains(privilege)));
            }
        }
        may
    }

    /// All privileges of a caller on a path.
    pub fn effective(&self, caller: &Caller, path: &str, pool: Option<&str>) -> Vec<&'static str> {
        privileges(self.pve).filter(|privilege| self.may(caller, path, pool, privilege)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Caller {
        Caller::Token { id: "blockhost@pve!tf".into(), user: "blockhost@pve".into(), privsep: false }
    }

    #[test]
    fn the_installed_token_reaches_its_pool_and_no_further() {
        let access = Access::new(&NodeOptions::default());
        assert!(access.may(&token(), "/vms/101", Some("blockhost"), "VM.PowerMgmt"));
        assert!(!access.may(&token(), "/vms/102", None, "VM.Audit"));
        assert!(access.may(&token(), "/vms/9001", None, "VM.Clone"));
        assert!(!access.may(&token(), "/vms/9001", None, "VM.PowerMgmt"));
        assert!(!access.may(&token(), "/storage/local", None, "Datastore.Allocate"));
        assert!(access.may(&Caller::Root, "/anything", None, "Sys.Modify"));
    }

    #[test]
    fn privilege_separation_intersects() {
        let mut access = Access::new(&NodeOptions::default());
        let separate =
            Caller::Token { id: "blockhost@pve!own".into(), user: "blockhost@pve".into(), privsep: true };
        assert!(!access.may(&separate, "/vms/9001", None, "VM.Clone"));
        access.grant("/vms/9001", "blockhost@pve!own", "Administrator", true);
        assert!(access.may(&separate, "/vms/9001", None, "VM.Clone"));
        assert!(!access.may(&separate, "/vms/9001", None, "VM.PowerMgmt"));
    }

    #[test]
    fn the_deepest_rule_wins() {
        let mut access = Access::new(&NodeOptions { token_may_all: true, ..NodeOptions::default() });
        assert!(access.may(&token(), "/vms/7", None, "VM.Audit"));
        access.grant("/vms/7", "blockhost@pve", "NoAccess", true);
        assert!(!access.may(&token(), "/vms/7", None, "VM.Audit"));
    }

    #[test]
    fn h40_a_privilege_of_the_other_version_fails_the_role() {
        let mut nine = Access::new(&NodeOptions::default());
        assert!(
            nine.set_role("x", &["VM.Monitor"]).unwrap_err().errors[0]
                .1
                .contains("invalid privilege 'VM.Monitor'")
        );
        let mut eight = Access::new(&NodeOptions { pve: 8, ..NodeOptions::default() });
        assert!(eight.set_role("x", &["VM.Monitor"]).is_ok());
        assert!(eight.set_role("x", &["VM.GuestAgent.Audit"]).is_err());
    }

    #[test]
    fn tokens_are_checked() {
        let access = Access::new(&NodeOptions::default());
        let right = "PVEAPIToken=blockhost@pve!tf=3f1f6f0c-1b1e-4d0e-9c55-6d2f1c0a7b11";
        assert_eq!(access.authenticate(Some(right)), Ok(token()));
        for wrong in
            [None, Some("Basic x"), Some("PVEAPIToken=blockhost@pve!tf=0"), Some("PVEAPIToken=x@pve!y=0")]
        {
            assert_eq!(access.authenticate(wrong).unwrap_err().code, 401);
        }
    }
}

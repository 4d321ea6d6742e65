//! Rows that `pvesh` and `pveum` print as JSON. A field that is missing, or has a different type than in PVE 8 and 9,
//! counts as missing: the lists contain everything on the node, and one unexpected row must not hide the others.

use crate::value::lenient;
use serde::Deserialize;

/// `pvesh get /version`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Version {
    /// For example `8.4` or `9.0.3`.
    #[serde(deserialize_with = "lenient::text")]
    pub release: Option<String>,
}

/// A row of `pvesh get /cluster/status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClusterMember {
    /// `node` or `cluster`.
    #[serde(rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Whether it is the node that was queried.
    #[serde(rename = "local", deserialize_with = "lenient::is_one")]
    pub is_this: bool,
    #[serde(deserialize_with = "lenient::text")]
    pub name: Option<String>,
}

/// A row of `pveum pool list`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pool {
    #[serde(rename = "poolid", deserialize_with = "lenient::text")]
    pub name: Option<String>,
}

/// A row of `pveum user list`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct User {
    /// The name with its realm: `blockhost@pve`.
    #[serde(rename = "userid", deserialize_with = "lenient::text")]
    pub name: Option<String>,
}

/// A role, from `pveum role list`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Role {
    /// Its name.
    #[serde(rename = "roleid", deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// Its privileges, separated by commas.
    #[serde(rename = "privs", deserialize_with = "lenient::text")]
    pub privileges: Option<String>,
}

/// A token, from `pveum user token list`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiToken {
    /// Its name, without the user's.
    #[serde(rename = "tokenid", deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// Whether privileges are separated: the token may do only what both its own rules and those of its user allow.
    #[serde(rename = "privsep", deserialize_with = "lenient::is_one")]
    pub is_separated: bool,
}

/// The output of `pveum user token add`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NewToken {
    #[serde(deserialize_with = "lenient::text")]
    pub value: Option<String>,
}

/// An access rule: who may do what where, from `pveum acl list`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AclEntry {
    /// The path, for example `/vms/100`.
    #[serde(deserialize_with = "lenient::text")]
    pub path: Option<String>,
    /// `user`, `group` or `token`.
    #[serde(rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// Who.
    #[serde(rename = "ugid", deserialize_with = "lenient::text")]
    pub subject: Option<String>,
    /// The role.
    #[serde(rename = "roleid", deserialize_with = "lenient::text")]
    pub role: Option<String>,
    /// Whether the rule also applies below the path.
    #[serde(rename = "propagate", default = "lenient::yes", deserialize_with = "lenient::unless_off")]
    pub propagates: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_holds_below_its_path_unless_it_says_otherwise() {
        let text = r#"[{"propagate": 1}, {"propagate": "1"}, {}, {"propagate": 0}, {"propagate": "0"}]"#;
        let rules: Vec<AclEntry> = serde_json::from_str(text).unwrap();
        let shown: Vec<bool> = rules.iter().map(|rule| rule.propagates).collect();
        assert_eq!(shown, [true, true, true, false, false]);
    }
}

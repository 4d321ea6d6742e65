//! Rows that `pvesh` and `pveum` print as JSON. A field that is missing, or of another type than it is in PVE 8 and 9,
//! is nothing: these lists are of all that the node has, and one row that nobody foresaw must not hide the others.

use crate::value::lenient;
use serde::Deserialize;

/// `pvesh get /version`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Version {
    /// `8.4`, `9.0.3`.
    #[serde(deserialize_with = "lenient::text")]
    pub release: Option<String>,
}

/// A row of `pvesh get /cluster/status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClusterMember {
    /// `node`, `cluster`.
    #[serde(rename = "type", deserialize_with = "lenient::text")]
    pub kind: Option<String>,
    /// It is the node that was asked.
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
    /// With its realm: `blockhost@pve`.
    #[serde(rename = "userid", deserialize_with = "lenient::text")]
    pub name: Option<String>,
}

/// A role, as `pveum role list` shows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Role {
    /// Its name.
    #[serde(rename = "roleid", deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// What it allows, separated by commas.
    #[serde(rename = "privs", deserialize_with = "lenient::text")]
    pub privileges: Option<String>,
}

/// A token, as `pveum user token list` shows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiToken {
    /// Its name below the user's.
    #[serde(rename = "tokenid", deserialize_with = "lenient::text")]
    pub name: Option<String>,
    /// It may only what its own rules say *and* its user may.
    #[serde(rename = "privsep", deserialize_with = "lenient::is_one")]
    pub is_separated: bool,
}

/// What `pveum user token add` prints.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NewToken {
    #[serde(deserialize_with = "lenient::text")]
    pub value: Option<String>,
}

/// A rule of who may do what where, as `pveum acl list` shows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AclEntry {
    /// `/vms/100`.
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
    /// It holds below the path, too.
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

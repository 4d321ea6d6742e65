//! The types of the program's values. A value of these types is always valid, because it was checked when it was made.

pub mod address;
pub mod allocation;
pub mod api_endpoint;
pub mod apt_repository;
pub mod cluster_rows;
pub mod field_names;
pub mod host_inventory;
pub mod host_network;
pub mod identity;
pub mod json_text;
pub mod lenient;
pub mod limits;
pub mod mac;
pub mod nearest;
pub mod node_name;
pub mod proxmox_host;
pub mod pve_user;
pub mod text;
pub mod timestamp;
pub mod token;
pub mod uptime;
pub mod vm_name;
pub mod vm_record;
pub mod vm_state;
pub mod vmid;
pub mod wallet;
pub mod web_address;

/// A value that was refused: what was given, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not allowed: {why}")]
pub struct Refused {
    /// The kind of value that was expected, in the reader's words ("VM name").
    pub what: &'static str,
    /// The given text, shortened.
    pub given: String,
    /// The rule that was broken.
    pub why: String,
}

impl Refused {
    /// Refuses `given` (shortened to 80 characters).
    pub fn new(what: &'static str, given: &str, why: impl Into<String>) -> Self {
        let mut shown: String = given.chars().take(80).collect();
        if shown.len() < given.len() {
            shown.push('…');
        }
        Refused { what, given: shown, why: why.into() }
    }
}

/// Implements the traits a checked text type needs: `Display`, `FromStr`, `as_str`.
macro_rules! checked_text {
    ($name:ident) => {
        impl $name {
            /// Returns the text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::value::Refused;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }
    };
}
pub(crate) use checked_text;

//! The names of the record's fields in the database file.

/// Names of the record's fields in the database file; `fields:` in db.yaml can change them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldNames {
    /// `vm_name`
    pub vm_name: String,
    /// `vmid`
    pub vmid: String,
    /// `ip_address`
    pub ip_address: String,
    /// `expires_at`
    pub expires_at: String,
    /// `owner`
    pub owner: String,
    /// `status`
    pub status: String,
    /// `created_at`
    pub created_at: String,
}

impl Default for FieldNames {
    fn default() -> Self {
        let name = |text: &str| text.to_string();
        FieldNames {
            vm_name: name("vm_name"),
            vmid: name("vmid"),
            ip_address: name("ip_address"),
            expires_at: name("expires_at"),
            owner: name("owner"),
            status: name("status"),
            created_at: name("created_at"),
        }
    }
}

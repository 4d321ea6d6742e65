//! The name of a VM: its key in the database, its host name, and part of file names (hazards H03, H04).

use super::text::YAML_WORDS;
use super::{Refused, checked_text};

/// A VM name: DNS labels of letters, digits and inner hyphens, joined by dots, at most 63 characters.
///
/// Because of this form, a name is never a path, an option or a terraform expression.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmName(String);
checked_text!(VmName);

/// Names with another meaning in the terraform directory: `provider.tf.json`, `variables.tf.json`, `terraform.tfstate`,
/// terraform's own `override.tf.json`, and our directory `vms`.
const RESERVED: [&str; 5] = ["provider", "variables", "terraform", "override", "vms"];

const WHAT: &str = "VM name";

impl VmName {
    /// Checks `text`. The error names the broken rule.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        Self::check(text)?;
        Ok(VmName(text.to_string()))
    }

    /// Checks whether `text` is a VM name, without creating one.
    pub fn check(text: &str) -> Result<(), Refused> {
        let refuse = |why: &str| Err(Refused::new(WHAT, text, why));
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > 63 {
            return refuse("it has more than 63 characters");
        }
        for label in text.split('.') {
            if label.is_empty() {
                return refuse("a label between dots is empty");
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return refuse("it may contain only letters, digits, hyphens and dots");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return refuse("a label may not start or end with a hyphen");
            }
        }
        if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(text)) {
            return refuse("Terraform's directory uses this name itself");
        }
        Ok(())
    }

    /// Refuses names that a YAML parser does not treat as strings (`true`, `123`, `2026-11-23`), because cloud-init
    /// templates contain the name in plain scalars. Only new VMs are checked; older ones stay usable.
    pub fn check_for_new_vm(&self) -> Result<(), Refused> {
        let plain_text =
            matches!(serde_yaml::from_str::<serde_json::Value>(&self.0), Ok(serde_json::Value::String(_)));
        // PyYAML (cloud-init's parser) follows YAML 1.1, where more words are not strings.
        let lower = self.0.to_ascii_lowercase();
        let yaml_1_1_word = YAML_WORDS.contains(&lower.as_str());
        let digits_first =
            lower.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'e' | b'x' | b'o'))
                && lower.starts_with(|c: char| c.is_ascii_digit());
        if !plain_text || yaml_1_1_word || digits_first {
            return Err(Refused::new(
                WHAT,
                &self.0,
                "cloud-init would read it as a number, a date or a truth value; put a letter in it",
            ));
        }
        Ok(())
    }

    /// Returns the terraform resource label: everything except letters, digits and `_` becomes `_`, and a leading digit
    /// gets the prefix `vm_`. Not unique: `a-b` and `a.b` have the same label (hazard H03).
    pub fn resource_label(&self) -> String {
        let label: String = self.0.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if label.starts_with(|c: char| c.is_ascii_digit()) { format!("vm_{label}") } else { label }
    }

    /// Returns the label used by the older package: the same without the `vm_` (`facts/contract/legacy.md`).
    pub fn legacy_resource_label(&self) -> String {
        self.0.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h04_names_that_are_dns_labels_pass() {
        for good in [
            "blockhost-001",
            "a",
            "A1",
            "web.example.org",
            "x".repeat(63).as_str(),
            "xn--p1ai",
            "a--b",
            "7up",
        ] {
            assert_eq!(VmName::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn h04_names_that_are_not_are_refused_and_say_why() {
        let long = "x".repeat(64);
        for bad in [
            "",
            long.as_str(),
            "-a",
            "a-",
            "a.-b",
            "a..b",
            ".a",
            "a.",
            "../x",
            "a/b",
            "a b",
            "a\n",
            "a\u{0}",
            "a_b",
            "--help",
            "ä",
            "${file(\"/etc/hostname\")}",
            "a;b",
            "a'b",
            "a:b",
            "provider",
            "Terraform",
            "variables",
            "override",
            "vms",
            "%{if true}",
        ] {
            let error = VmName::parse(bad).expect_err(bad).to_string();
            assert!(error.starts_with("VM name ") && error.contains("not allowed: "), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn h27_names_that_yaml_reads_as_something_else_are_refused_for_new_vms() {
        for bad in ["true", "Yes", "no", "null", "123", "1e3", "0x1f", "2026-11-23", "1.5", "y"] {
            let name = VmName::parse(bad).unwrap();
            assert!(name.check_for_new_vm().is_err(), "{bad}");
        }
        for good in ["blockhost-001", "web1", "7up", "a", "nope", "e2e"] {
            VmName::parse(good).unwrap().check_for_new_vm().unwrap();
        }
    }

    #[test]
    fn h03_labels_collide_where_names_differ_in_punctuation() {
        let label = |n: &str| VmName::parse(n).unwrap().resource_label();
        assert_eq!(label("a-b"), label("a.b"));
        assert_eq!(label("7up"), "vm_7up");
        assert_eq!(label("web-1.x"), "web_1_x");
    }
}

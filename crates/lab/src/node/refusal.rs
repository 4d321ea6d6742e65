//! How the node says no: one value for the HTTP answer and for the tools' stderr.

/// A refusal with the HTTP status Proxmox gives it.
///
/// A plain Perl `die` is 500, a wrong parameter 400 with a reason per parameter, a missing privilege 403, an unknown
/// path 501.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// Without line end.
    pub message: String,
    /// Parameter → why.
    pub errors: Vec<(String, String)>,
    /// The asker is to be cut off (fault `kill`).
    pub cut_off: bool,
}

pub(crate) type Outcome<T> = Result<T, Refusal>;

impl Refusal {
    /// A plain failure.
    pub fn die(message: impl Into<String>) -> Self {
        Self { code: 500, message: message.into(), errors: Vec::new(), cut_off: false }
    }

    /// A wrong parameter.
    pub fn parameter(name: &str, why: impl Into<String>) -> Self {
        Self {
            code: 400,
            message: "Parameter verification failed.".into(),
            errors: vec![(name.into(), why.into())],
            cut_off: false,
        }
    }

    /// A missing privilege.
    pub fn forbidden(path: &str, privilege: &str) -> Self {
        Self {
            code: 403,
            message: format!("Permission check failed ({path}, {privilege})"),
            errors: Vec::new(),
            cut_off: false,
        }
    }

    /// With another status.
    pub fn with_code(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), errors: Vec::new(), cut_off: false }
    }

    /// No answer at all.
    pub fn cut_off() -> Self {
        Self { code: 0, message: "killed".into(), errors: Vec::new(), cut_off: true }
    }

    /// The wording of status, config, set, start, destroy, template, disk and guest calls.
    pub fn no_such_config(node: &str, vmid: u32) -> Self {
        Self::die(format!("Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist"))
    }

    /// The wording of stop, shutdown, reboot, reset and of a clone's source.
    pub fn no_such_vm(node: &str, vmid: u32) -> Self {
        Self::die(format!("unable to find configuration file for VM {vmid} on node '{node}'"))
    }

    /// What a tool prints on stderr: a parameter error with its reasons, else the bare text.
    pub fn for_stderr(&self) -> String {
        if self.errors.is_empty() {
            return format!("{}\n", self.message);
        }
        let mut text = format!("{} {}\n", self.code, self.message);
        for (name, why) in &self.errors {
            text.push_str(&format!("{name}: {why}\n"));
        }
        text
    }
}

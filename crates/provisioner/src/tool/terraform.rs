//! Terraform for one VM, with its own directory and state (`SPECIAL.md#decisions`; hazards H21, H43, H44, H52).
//!
//! ```text
//! <terraform_dir>/provider.tf.json variables.tf.json terraform.tfvars .terraform/ .terraform.lock.hcl
//! <terraform_dir>/vms/<name>/<name>.tf.json        the VM
//!                            provider.tf.json …    links to ../../
//!                            terraform.tfstate     its state; nothing is decided by it: destroy goes by identity
//!                            terraform.log         what the last run printed
//!                            terraform.lock        locked (flock) while a terraform or its provider lives
//! ```
//!
//! Terraform outlives this process: it writes to a file, not to a pipe of ours, and holds `terraform.lock` as its
//! standard input, so the kernel shows whether it is still running, whoever started it.

use super::terraform_events::{Diagnostic, Event, WAS_KILLED, parse_line};
use super::terraform_state::{StateFile, attributes_in, label_in, read_state, secure_state};
use crate::host::clock::Deadline;
use crate::host::doors::Doors;
use crate::host::interrupt::Interrupt;
use crate::host::lock_file::LockFile;
use crate::host::replace_file::{self, PRIVATE};
use crate::host::run_process::{self, Child, Program};
use crate::host::{self, Host};
use crate::store::node_access::NodeAccess;
use crate::store::settings::Settings;
use crate::value::vm_name::VmName;
use crate::value::vmid::Vmid;
use anyhow::Context;
use serde_json::Value;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Files in each VM's directory that are links to those of the parent directory.
const SHARED_FILES: [&str; 3] = ["provider.tf.json", "variables.tf.json", ".terraform.lock.hcl"];
const TOKEN_FILE: &str = "pve-token.tfvars.json";
pub(super) const STATE: &str = "terraform.tfstate";
pub(super) const STATE_COPY: &str = "terraform.tfstate.blockhost";
/// Variables in the caller's environment that would change what terraform does.
const NOT_PASSED_ON: [&str; 7] =
    ["PROXMOX_VE_", "TF_CLI_ARGS", "TF_VAR_", "TF_WORKSPACE", "TF_DATA_DIR", "TF_REATTACH", "TF_LOG"];
/// With less free space than this, terraform can write neither its state nor its log in full.
const NO_SPACE_KIB: u64 = 64;
/// How long terraform waits for its own state lock: another terraform for the same VM may be about to end.
const LOCK_TIMEOUT: &str = "-lock-timeout=30s";
/// How long to wait for a terraform that is running in the same directory.
pub(super) const FOLDER_WAIT: Duration = Duration::from_secs(20);
/// How long terraform gets after SIGTERM to finish its step and save its state; the provider does not stop a clone
/// halfway.
const AFTER_SIGTERM: Duration = Duration::from_secs(120);

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0. Query the node whether it is true (H44).
    Done,
    /// Any other result.
    Failed(Vec<Diagnostic>),
    /// The deadline passed; terraform is still running.
    StillRunning,
}

/// The terraform directory of one VM.
pub struct VmFolder {
    doors: Doors,
    dir: PathBuf,
    parent: PathBuf,
    home: PathBuf,
    temporary: PathBuf,
    name: VmName,
}

impl VmFolder {
    /// Returns the directory of `name`, without touching anything.
    pub fn new(host: &Host, settings: &Settings, name: &VmName) -> VmFolder {
        let parent = settings.terraform_dir.clone();
        let home = host.home.clone().unwrap_or_else(|| host.state_dir.clone());
        let dir = parent.join("vms").join(name.as_str());
        let temporary = temporary_of(host, &dir);
        VmFolder { doors: host.doors, dir, parent, home, temporary, name: name.clone() }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Where terraform keeps its temporary files while it works here.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// Checks that terraform is installed and has been initialised, so that this is known before a VMID is allocated.
    pub fn check_terraform(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            run_process::find("terraform").is_some(),
            "terraform is not installed (not found on PATH); install it, then run blockhost-provisioner-setup terraform"
        );
        anyhow::ensure!(
            self.parent.join(".terraform/providers").is_dir()
                && self.parent.join("variables.tf.json").is_file(),
            "terraform is not initialised in {}; run blockhost-provisioner-setup terraform",
            self.parent.display()
        );
        Ok(())
    }

    /// Creates the directory, its links and the VM's complete file, in that order; existing ones are replaced.
    pub fn prepare(&self, file: &str) -> anyhow::Result<()> {
        self.check_terraform()?;
        replace_file::make_folder(self.doors, &self.parent.join("vms"), 0o750)?;
        replace_file::make_folder(self.doors, &self.dir, 0o750)?;
        for shared in SHARED_FILES {
            replace_file::make_link(self.doors, &format!("../../{shared}"), &self.dir.join(shared))?;
        }
        Ok(replace_file::replace(self.doors, &self.vm_file(), file.as_bytes(), PRIVATE, "terraform-file")?)
    }

    fn vm_file(&self) -> PathBuf {
        self.dir.join(format!("{}.tf.json", self.name))
    }

    /// Returns the VM that the VM's own file describes: its VMID and its SMBIOS UUID; `None` if the file is missing or
    /// does not say.
    pub fn machine(&self) -> anyhow::Result<Option<(Vmid, Uuid)>> {
        let path = self.vm_file();
        if !path.exists() {
            return Ok(None);
        }
        let text = crate::host::read_file::text_for_people(&path)?;
        let file: Value =
            serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
        let vms = file.pointer("/resource/proxmox_virtual_environment_vm").and_then(Value::as_object);
        let vm = vms.and_then(|vms| vms.values().next());
        let vmid = vm.and_then(|vm| vm.get("vm_id")).and_then(Value::as_u64).and_then(|n| Vmid::new(n).ok());
        let uuid = vm.and_then(|vm| vm.pointer("/smbios/uuid")).and_then(Value::as_str);
        Ok(vmid.zip(uuid.and_then(|text| Uuid::parse_str(text).ok())))
    }

    /// Fails unless an apply here can only create this VM: the file describes it, there is no state that could name
    /// somebody else's VM, and nothing else that terraform would read (H02). Call this right before the apply.
    pub fn ensure_fresh(&self, vmid: Vmid, uuid: Uuid) -> anyhow::Result<()> {
        let dir = self.dir.display();
        anyhow::ensure!(
            self.machine()? == Some((vmid, uuid)),
            "{dir}/{}.tf.json does not describe VMID {vmid} with UUID {uuid}: it was modified; nothing was applied",
            self.name
        );
        let ours = self.vm_file();
        let entries = std::fs::read_dir(&self.dir).with_context(|| format!("cannot read {dir}"))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot read {dir}"))?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_read =
                [".tf", ".tf.json", ".tfvars", ".tfvars.json"].iter().any(|end| file.ends_with(end))
                    || file.starts_with(STATE);
            let is_known = path == ours || file == TOKEN_FILE || SHARED_FILES.contains(&file.as_str());
            anyhow::ensure!(
                is_known || !is_read,
                "{} is not ours, but terraform would read it; move it away, then create the VM again",
                path.display()
            );
        }
        Ok(())
    }

    /// Writes its first state, for a VM that another directory's state had; one that is there is left.
    pub fn adopt_state(&self, text: &str) -> anyhow::Result<()> {
        let path = self.dir.join(STATE);
        match read_state(&path)? {
            StateFile::Holds(_) => Ok(()),
            StateFile::Missing | StateFile::Torn => {
                Ok(replace_file::replace(self.doors, &path, text.as_bytes(), PRIVATE, "own-state")?)
            }
        }
    }

    /// Reads the state.
    pub fn state(&self) -> anyhow::Result<StateFile> {
        read_state(&self.dir.join(STATE))
    }

    /// Returns the path of the log of the last terraform in this directory.
    pub fn log(&self) -> PathBuf {
        self.dir.join("terraform.log")
    }

    /// Whether terraform was ever started in this directory.
    pub fn was_run(&self) -> bool {
        self.log().exists()
    }

    /// Whether a terraform (or its provider) is running for this VM.
    pub fn is_busy(&self) -> anyhow::Result<bool> {
        is_busy(&self.dir)
    }

    /// Waits for a terraform that another process has left running; when the deadline has passed, it gets SIGTERM once.
    pub fn wait_until_idle(
        &self,
        pid: Option<u32>,
        deadline: Deadline,
        interrupt: &Interrupt,
    ) -> anyhow::Result<bool> {
        let mut asked = false;
        let mut last_call = deadline;
        while self.is_busy()? {
            if last_call.passed() {
                match pid {
                    Some(pid) if !asked && terraform_of(pid, &self.dir) => {
                        run_process::terminate(pid);
                        asked = true;
                        last_call = self.doors.deadline(Duration::from_secs(10));
                    }
                    _ => return Ok(false),
                }
            }
            interrupt.sleep(self.doors, Duration::from_millis(50));
            interrupt.check()?;
        }
        Ok(true)
    }

    /// Starts `terraform apply` or `destroy` for the VM's resource only.
    pub fn run(&self, verb: &str, addresses: &[String], access: &NodeAccess) -> anyhow::Result<Run> {
        let places = Places {
            doors: self.doors,
            dir: &self.dir,
            parent: &self.parent,
            home: &self.home,
            temporary: &self.temporary,
        };
        run(&places, "../../terraform.tfvars", verb, addresses, access)
    }

    /// Removes the directory with its state.
    pub fn remove(&self) -> anyhow::Result<()> {
        replace_file::remove_tree(&self.temporary)?;
        Ok(replace_file::remove_tree(&self.dir)?)
    }
}

/// The older package's shared directory, where its VMs still have their files and their state.
pub struct LegacyFolder {
    pub(super) doors: Doors,
    pub(super) dir: PathBuf,
    home: PathBuf,
    temporary: PathBuf,
    name: VmName,
}

impl LegacyFolder {
    /// Returns the shared directory, for the VM `name`.
    pub fn new(host: &Host, settings: &Settings, name: &VmName) -> LegacyFolder {
        let home = host.home.clone().unwrap_or_else(|| host.state_dir.clone());
        let dir = settings.terraform_dir.clone();
        LegacyFolder { doors: host.doors, temporary: temporary_of(host, &dir), dir, home, name: name.clone() }
    }

    pub(super) fn vm_file(&self) -> PathBuf {
        self.dir.join(format!("{}.tf.json", self.name))
    }

    /// Whether this VM has its file in the shared directory.
    pub fn has_file(&self) -> bool {
        self.vm_file().exists()
    }

    /// Returns the label of the VM's resource: from its file, otherwise by the older package's rule.
    pub fn label(&self) -> String {
        label_in(&self.vm_file()).ok().flatten().unwrap_or_else(|| self.name.legacy_resource_label())
    }

    /// Returns the terraform address of the VM's own resource.
    pub fn vm_address(&self) -> String {
        format!("proxmox_virtual_environment_vm.{}", self.label())
    }

    /// Returns the terraform address of its cloud-init file, which is a separate resource (`facts/terraform.md`).
    pub fn file_address(&self) -> String {
        format!("proxmox_virtual_environment_file.cloud_config_{}", self.label())
    }

    /// Returns the VMID of the VM's resource in the shared state.
    pub fn vmid_in_state(&self) -> anyhow::Result<Option<u32>> {
        let attributes = attributes_in(&self.dir.join(STATE), &self.vm_address())?;
        let vmid = attributes.as_ref().and_then(|a| a.get("vm_id")).and_then(Value::as_u64);
        Ok(vmid.and_then(|n| u32::try_from(n).ok()))
    }

    /// Returns the volume that the shared state names as the VM's cloud-init file.
    pub fn file_in_state(&self) -> anyhow::Result<Option<String>> {
        let attributes = attributes_in(&self.dir.join(STATE), &self.file_address())?;
        Ok(attributes.as_ref().and_then(|a| a.get("id")).and_then(Value::as_str).map(str::to_string))
    }

    /// Whether this volume is the file that the older package created for the VM.
    pub fn is_its_file(&self, volume: &str) -> bool {
        volume.ends_with(&format!(":snippets/{}-cloud-config.yaml", self.name))
    }

    /// Makes sure that the next run sees the last good state: a torn state is replaced by our copy or terraform's own
    /// backup, and a good one is copied. Returns `Torn` if there is no good state left.
    pub fn secure_state(&self) -> anyhow::Result<StateFile> {
        secure_state(self.doors, &self.dir.join(STATE), &self.dir.join(STATE_COPY))
    }

    /// Whether a terraform of ours is running in the shared directory.
    pub fn is_busy(&self) -> anyhow::Result<bool> {
        is_busy(&self.dir)
    }

    /// Starts `terraform state rm`, which removes the VM from the shared state and leaves the node alone.
    pub fn forget_machine(&self, access: &NodeAccess) -> anyhow::Result<Run> {
        let arguments = ["state", "rm", LOCK_TIMEOUT, "-backup=terraform.tfstate.backup", &self.vm_address()];
        start(&self.places(), arguments.map(OsString::from).to_vec(), access)
    }

    /// Starts `terraform destroy` for the VM's cloud-init file. The state must no longer contain the VM, because
    /// terraform also destroys what depends on a target.
    pub fn destroy_file(&self, access: &NodeAccess) -> anyhow::Result<Run> {
        anyhow::ensure!(
            !self.left_in_state()?.contains(&self.vm_address()),
            "the shared Terraform state still contains {}",
            self.vm_address()
        );
        run(&self.places(), "terraform.tfvars", "destroy", &[self.file_address()], access)
    }

    fn places(&self) -> Places<'_> {
        Places {
            doors: self.doors,
            dir: &self.dir,
            parent: &self.dir,
            home: &self.home,
            temporary: &self.temporary,
        }
    }

    /// Returns the addresses of this VM that the shared state still contains.
    pub fn left_in_state(&self) -> anyhow::Result<Vec<String>> {
        let ours = [self.vm_address(), self.file_address()];
        Ok(match read_state(&self.dir.join(STATE))? {
            StateFile::Holds(all) => all.into_iter().filter(|a| ours.contains(a)).collect(),
            StateFile::Missing => Vec::new(),
            StateFile::Torn => {
                anyhow::bail!("{} was truncated by a killed terraform", self.dir.join(STATE).display())
            }
        })
    }

    /// Removes the VM's two files from the shared directory.
    pub fn remove_files(&self) -> anyhow::Result<()> {
        replace_file::remove(&self.vm_file())?;
        Ok(replace_file::remove(&self.cloud_config())?)
    }

    /// Where the older package wrote the VM's user-data before it uploaded it.
    pub(super) fn cloud_config(&self) -> PathBuf {
        self.dir.join(format!("{}-cloud-config.yaml", self.name))
    }
}

/// A running terraform.
pub struct Run {
    doors: Doors,
    child: Child,
    temporary: PathBuf,
    log: PathBuf,
    read_so_far: usize,
    secrets: Vec<String>,
    diagnostics: Vec<Diagnostic>,
    /// Set for a destroy, where each warning may be a leftover. An apply only warns about what create itself waits for.
    warnings_matter: bool,
}

impl Run {
    /// Returns its PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end. On a signal to this process, terraform gets SIGTERM once and time to save its state; past the
    /// deadline it keeps running without us.
    pub fn wait(mut self, deadline: Deadline, interrupt: &Interrupt) -> anyhow::Result<Outcome> {
        let mut deadline = deadline;
        let mut asked = false;
        loop {
            let ended = self.child.try_wait()?;
            self.read_log();
            if let Some(status) = ended {
                self.tidy();
                return Ok(if status.success() {
                    Outcome::Done
                } else {
                    Outcome::Failed(self.failure(status))
                });
            }
            if interrupt.requested() && !asked {
                asked = true;
                tracing::warn!("interrupted: waiting for terraform to finish its step and save its state");
                self.child.terminate();
                deadline = self.doors.deadline(AFTER_SIGTERM);
            }
            if deadline.passed() {
                return Ok(Outcome::StillRunning);
            }
            self.doors.sleep(Duration::from_millis(10));
        }
    }

    /// Removes its TMPDIR, under the directory's lock: VMs of the older package share a directory, and the next
    /// terraform there may already have started. Best effort: the next terraform creates the TMPDIR anew.
    fn tidy(&self) {
        let lock = self.log.with_file_name("terraform.lock");
        if let Ok(Some(_lock)) = LockFile::try_lock(&lock) {
            let _ = replace_file::remove_tree(&self.temporary);
        }
    }

    fn read_log(&mut self) {
        let mut bytes = Vec::new();
        if let Ok(mut file) = crate::host::read_file::open(&self.log) {
            use std::io::{Seek, SeekFrom};
            if file.seek(SeekFrom::Start(self.read_so_far as u64)).is_ok() {
                let _ = file.take(1 << 20).read_to_end(&mut bytes);
            }
        }
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        self.read_so_far += whole;
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            match parse_line(&self.blotted(line)) {
                Some(Event::Progress(text)) => tracing::info!("terraform: {text}"),
                Some(Event::Error(diagnostic)) => self.diagnostics.push(diagnostic),
                Some(Event::Warning(diagnostic)) if self.warnings_matter => {
                    tracing::warn!("terraform: {diagnostic}");
                }
                Some(Event::Warning(diagnostic)) => tracing::debug!("terraform: {diagnostic}"),
                Some(Event::Plain(text)) => {
                    self.diagnostics.push(Diagnostic { summary: text, detail: String::new() });
                }
                None => {}
            }
        }
    }

    /// Removes secrets from the output of other programs (H30).
    fn blotted(&self, text: &str) -> String {
        self.secrets.iter().filter(|s| !s.is_empty()).fold(text.to_string(), |t, s| t.replace(s, "[secret]"))
    }

    fn failure(&mut self, status: std::process::ExitStatus) -> Vec<Diagnostic> {
        let mut all = std::mem::take(&mut self.diagnostics);
        // Whoever rolls back has to know of the signal, whatever terraform had printed before.
        if all.is_empty() || status.signal().is_some() {
            let log = self.log.display();
            let mut summary = match status.signal() {
                Some(9) => {
                    format!(
                        "{WAS_KILLED} ({status}), perhaps because the host ran out of memory; see journalctl -k"
                    )
                }
                Some(_) => format!("{WAS_KILLED} ({status}); its log is {log}"),
                None => format!("terraform exited with {status} and no output; its log is {log}"),
            };
            // Terraform cannot report this itself: its output goes to the same disk.
            if let Some(left) = self.log.parent().and_then(host::free_kib).filter(|left| *left < NO_SPACE_KIB)
            {
                summary = format!("{summary}: No space left on device there ({left} KiB free)");
            }
            all.push(Diagnostic { summary, detail: String::new() });
        }
        all
    }
}

/// The directories that a terraform uses.
struct Places<'a> {
    doors: Doors,
    dir: &'a Path,
    parent: &'a Path,
    home: &'a Path,
    temporary: &'a Path,
}

/// Returns the TMPDIR for the terraforms of one directory. It is separate because in the common one any local user
/// could hold the lock that the provider takes at each start; and short because terraform creates a socket there, whose
/// path is limited to 107 bytes.
fn temporary_of(host: &Host, dir: &Path) -> PathBuf {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    host.state_dir.join(format!("tf-{:016x}", hasher.finish()))
}

fn run(
    places: &Places<'_>,
    variables: &str,
    verb: &str,
    addresses: &[String],
    access: &NodeAccess,
) -> anyhow::Result<Run> {
    let dir = places.dir;
    let mut arguments: Vec<OsString> = [verb, "-json", "-input=false", "-auto-approve", LOCK_TIMEOUT]
        .into_iter()
        .map(OsString::from)
        .collect();
    arguments.push(format!("-var-file={variables}").into());
    // The token in /etc/blockhost/pve-token takes precedence over the one in tfvars, because a later -var-file wins
    // (and the token stays out of argv).
    let token_file = dir.join(TOKEN_FILE);
    if access.token_overrides_tfvars {
        let text = serde_json::json!({ "proxmox_api_token": access.token.reveal() }).to_string();
        replace_file::replace(places.doors, &token_file, text.as_bytes(), PRIVATE, "token-variable")?;
        arguments.push(format!("-var-file={TOKEN_FILE}").into());
    } else {
        replace_file::remove(&token_file)?;
    }
    arguments.extend(addresses.iter().map(|address| OsString::from(format!("-target={address}"))));
    start(places, arguments, access)
}

fn start(places: &Places<'_>, arguments: Vec<OsString>, access: &NodeAccess) -> anyhow::Result<Run> {
    let Places { doors, dir, parent, home, temporary } = places;
    // Two VMs of the older package share a directory: the second waits for the first.
    let lock = LockFile::lock(&dir.join("terraform.lock"), doors.deadline(FOLDER_WAIT), &Interrupt::never())
        .with_context(|| format!("another terraform is running in {}", dir.display()))?;
    // Left by a terraform whose command was killed; while we hold the lock, nothing uses it.
    replace_file::remove_tree(temporary)?;
    replace_file::make_folder(*doors, temporary, 0o700)?;
    let verb = arguments.first().map(|verb| verb.to_string_lossy().into_owned()).unwrap_or_default();
    let mut environment = vec![
        ("TF_DATA_DIR", parent.join(".terraform").into_os_string()),
        ("TF_IN_AUTOMATION", "1".into()),
        ("CHECKPOINT_DISABLE", "1".into()),
        ("HOME", home.as_os_str().to_os_string()),
        ("TMPDIR", temporary.as_os_str().to_os_string()),
    ];
    // Go reads this file instead of the system's bundle, and the system's directory of certificates in addition.
    environment.extend(access.own_ca.iter().map(|path| ("SSL_CERT_FILE", path.as_os_str().to_os_string())));
    let program = Program { name: "terraform", arguments, folder: dir, environment, without: &NOT_PASSED_ON };
    let log = dir.join("terraform.log");
    let child = run_process::spawn_outliving(*doors, &program, &log, lock.into_file())
        .with_context(|| format!("failed to start terraform {verb} in {}", dir.display()))?;
    let secrets = vec![access.token.reveal().to_string(), access.token.secret_part().to_string()];
    Ok(Run {
        doors: *doors,
        child,
        temporary: temporary.to_path_buf(),
        log,
        read_so_far: 0,
        secrets,
        diagnostics: Vec::new(),
        warnings_matter: verb == "destroy",
    })
}

fn is_busy(dir: &Path) -> anyhow::Result<bool> {
    let path = dir.join("terraform.lock");
    if !path.exists() {
        return Ok(false);
    }
    Ok(LockFile::try_lock(&path)?.is_none())
}

/// Whether PID is a terraform that is running in `dir` (PIDs are reused).
fn terraform_of(pid: u32, dir: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let is_terraform = crate::host::read_file::bytes(process.join("cmdline"))
        .is_ok_and(|line| line.split(|b| *b == 0).next().is_some_and(|arg| arg.ends_with(b"terraform")));
    is_terraform && std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == dir)
}

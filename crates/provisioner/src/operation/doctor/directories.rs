//! Terraform's directories: each VM's own, and the shared one.

use crate::host::read_file;
use crate::operation::Context;
use crate::plan::doctor::Finding;
use crate::plan::doctor::kinds::*;
use crate::plan::doctor::leftovers::{Directory, Work};
use crate::plan::doctor::terraform::{self, State};
use crate::plan::doctor::vm::label;
use crate::store::record_copy;
use crate::tool::terraform_files::{TerraformFiles, vm_folders};
use crate::value::vm_name::VmName;
use crate::value::vm_record::VmRecord;
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind::NotFound;
use std::path::Path;

/// What lies there.
#[derive(Debug, Default)]
pub struct FromDirectories {
    /// The VMs' own.
    pub directories: Vec<Directory>,
    /// Directories of temporary files, and whose terraform they are for.
    pub temporary: Vec<(String, String)>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Reads all of them.
pub fn read(ctx: &Context<'_>, live: &[VmRecord], works: &[Work]) -> FromDirectories {
    let records: HashMap<&str, &VmRecord> =
        live.iter().map(|record| (record.name.as_str(), record)).collect();
    let at_work: HashSet<&str> = works.iter().map(|work| work.name.as_str()).collect();
    let mut told = FromDirectories::default();
    let mut seen = HashSet::new();
    for name in vm_folders(&ctx.settings) {
        let record = records.get(name.as_str()).filter(|_| !at_work.contains(name.as_str()));
        one(ctx, &name, record.copied(), &mut told);
        seen.insert(name);
    }
    // A directory that cannot be listed hides them: who owns it is judged elsewhere.
    let is_known = match std::fs::read_dir(ctx.settings.terraform_dir.join("vms")) {
        Ok(_) => true,
        Err(error) => error.kind() == NotFound,
    };
    for record in live.iter().filter(|record| record.smbios_uuid.is_some() && !seen.contains(&record.name)) {
        if is_known && !at_work.contains(record.name.as_str()) {
            let path = ctx.folder_of(&record.name).path().display().to_string();
            told.findings.extend(terraform::directory(record, &path, None, &State::Missing));
        }
    }
    shared(ctx, &records, &mut told.findings);
    ready(ctx, &mut told.findings);
    told
}

/// `None` for a file that is not there; one that cannot be read is as good as torn.
fn text_of(path: &Path) -> Option<String> {
    match read_file::text(path) {
        Err(error) if error.kind() == NotFound => None,
        other => Some(other.unwrap_or_default()),
    }
}

fn one(ctx: &Context<'_>, name: &VmName, record: Option<&VmRecord>, told: &mut FromDirectories) {
    let folder = ctx.folder_of(name);
    let path = folder.path().display().to_string();
    let file = text_of(&folder.path().join(format!("{name}.tf.json")));
    let kinds = ["user", "meta"].into_iter();
    let named = |kind: &&str| {
        file.as_ref().is_some_and(|text| text.contains(&format!("blockhost-{name}-{kind}.yaml")))
    };
    told.directories.push(Directory {
        name: name.to_string(),
        path: path.clone(),
        machine: folder.machine().ok().flatten().map(|(vmid, uuid)| (vmid.get(), uuid)),
        addresses: TerraformFiles::of_vm(&ctx.settings, name)
            .into_iter()
            .flat_map(|found| found.addresses)
            .collect(),
        snippets: kinds.filter(named).map(str::to_string).collect(),
    });
    if folder.temporary().is_dir() && !folder.is_busy().unwrap_or(true) {
        told.temporary.push((name.to_string(), folder.temporary().display().to_string()));
    }
    let Some(record) = record else { return };
    let state = terraform::state(text_of(&folder.path().join("terraform.tfstate")).as_deref());
    told.findings.extend(terraform::directory(record, &path, file.as_deref(), &state));
    let finding = |kind, what: String, mend: String| Finding::new(kind, label(record), what, mend).of(name);
    for entry in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
        let other = entry.file_name().to_string_lossy().into_owned();
        if terraform::is_stray(&other, name.as_str()) {
            let what = format!("{path}/{other} is not ours");
            told.findings.push(finding(&TERRAFORM_FILE_STRAY, what, format!("move {path}/{other} away")));
        }
    }
    if folder.is_busy().unwrap_or(false) {
        let what = format!("a Terraform is running in {path}");
        let mend = format!("wait, or see {}", folder.log().display());
        told.findings.push(finding(&TERRAFORM_STILL_RUNNING, what, mend));
    }
    if record.smbios_uuid.is_some() && !record_copy::exists(&ctx.settings, name) {
        let what = format!("{path}/record.json is missing");
        told.findings.push(finding(&RECORD_COPY_MISSING, what, "blockhost-vm-gc --execute writes it".into()));
    }
}

/// The shared directory, where VMs of the older package have their files: one of no VM would be read with them.
fn shared(ctx: &Context<'_>, records: &HashMap<&str, &VmRecord>, found: &mut Vec<Finding>) {
    let shared = &ctx.settings.terraform_dir;
    for entry in std::fs::read_dir(shared).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let vm = file.strip_suffix(".tf.json").unwrap_or_default();
        let is_known = file == "terraform.tfvars" || records.contains_key(vm);
        if !is_known && terraform::is_stray(&file, "") {
            let path = shared.join(&file);
            let what = "it is of no VM in the database";
            let mend = format!("move {} away", path.display());
            found.push(Finding::new(&TERRAFORM_FILE_STRAY, path.display(), what, mend));
        }
    }
}

fn ready(ctx: &Context<'_>, found: &mut Vec<Finding>) {
    let shared = ctx.settings.terraform_dir.display();
    let any = VmName::parse("doctor").map(|name| ctx.folder_of(&name).check_terraform());
    if let Ok(Err(error)) = any {
        let mend = "blockhost-provisioner-setup terraform";
        found.push(Finding::new(&TERRAFORM_NOT_READY, shared, format!("{error:#}"), mend));
    }
}

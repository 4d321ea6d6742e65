//! Builds the template that customers' VMs are cloned from: Debian's cloud image with our packages installed, as a VM
//! of the node. Run by root, from the installer or by hand (`blockhost-build-template`).
//!
//! ```text
//!   one builder ──▶ what a killed one left ──▶ node and packages checked ──▶ image (image.rs) ──▶ customised
//!     ──▶ noted (journal.rs) ──▶ VM made (machine.rs) ──▶ template            nothing was at its VMID
//!                                                     └─▶ replace.rs          a template of ours was
//! ```
//!
//! Disasters to be avoided: destroying somebody else's VM; destroying a template that has linked clones, or whose
//! successor is not complete; root following a link that user blockhost made.

pub mod image;
pub mod journal;
mod linked;
mod machine;
pub mod packages;
pub mod progress;
mod replace;
pub mod work_folder;

use crate::host::Host;
use crate::host::accounts;
use crate::host::interrupt::Interrupt;
use crate::host::large_file::{self, GrowingFile, Sum};
use crate::host::replace_file;
use crate::plan::template_image::{self, DebianRelease, INSIDE, SCRIPTS};
use crate::store::settings::{Settings, guests_bridge};
use crate::store::tfvars::Tfvars;
use crate::tool::guest_config::GuestConfig;
use crate::tool::proxmox_cli::{Grant, ProxmoxCli};
use crate::tool::virt_customize::{self, Act};
use crate::value::apt_repository::AptRepository;
use crate::value::proxmox_host::ProxmoxHost;
use crate::value::text::{BridgeName, StorageId};
use crate::value::vmid::Vmid;
use crate::value::web_address::WebAddress;
use anyhow::Context as _;
use image::Image;
use journal::{Entry, Made, Replacement};
use machine::{Removed, Wanted};
use packages::Package;
use progress::Progress;
use replace::Finished;
use std::path::{Path, PathBuf};
use uuid::Uuid;
use work_folder::WorkFolder;

/// Free space in KiB that a storage must have for an image with its packages; on a thin storage it takes about this
/// much.
const STORAGE_ROOM_KIB: u64 = 2 << 20;
/// How much a customised image grows, in bytes.
const GROWTH: u64 = 1 << 30;
/// How many hours a customised image of the same recipe may be reused; its packages are at most that old.
const FRESH_HOURS: i64 = 24;

/// What to build, and where.
#[derive(Debug, Clone)]
pub struct Request {
    /// The Debian release.
    pub release: DebianRelease,
    /// Address of its image.
    pub image: WebAddress,
    /// The node.
    pub host: ProxmoxHost,
    /// The template's VMID.
    pub vmid: Vmid,
    /// Storage of its disks.
    pub storage: StorageId,
    /// The bridge of its network card; `None`: the one in tfvars or db.yaml.
    pub bridge: Option<BridgeName>,
    /// The directory of the packages to install; `None`: the one in the state directory.
    pub packages: Option<PathBuf>,
    /// The cache directory, root's own.
    pub cache: PathBuf,
    /// Node.js' apt repository.
    pub node_repository: AptRepository,
    /// Suite of that repository.
    pub node_suite: String,
    /// Address of the key that signs it.
    pub node_key: WebAddress,
}

/// A finished template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Its VMID.
    pub vmid: Vmid,
    /// Its name.
    pub name: String,
}

/// What is at the template's VMID.
enum Present {
    Nothing,
    Template(GuestConfig),
}

/// Builds the template.
pub fn build_template(host: &Host, request: &Request, progress: &mut dyn Progress) -> anyhow::Result<Built> {
    let tools = ProxmoxCli::on(host.doors, request.host.clone(), host.interrupt.clone());
    anyhow::ensure!(
        request.host != ProxmoxHost::Local || replace_file::are_root(),
        "only root may create VMs on the node; run the command as root"
    );
    virt_customize::check()?;
    tools.check()?;
    let folder = WorkFolder::open(host, &request.cache)?;
    host.step("template.locked")?;
    let terraform_dir = linked::terraform_dir(host)?;
    let finished = recover(&folder, &terraform_dir, progress)?;
    host.step("template.recovered")?;

    let wanted = Wanted {
        name: request.release.template_name(),
        storage: request.storage.to_string(),
        bridge: bridge(host, request, &terraform_dir)?.to_string(),
    };
    let found = check_node(&tools, request, &wanted, &terraform_dir)?;
    let packages_dir = request.packages.clone().unwrap_or_else(|| host.state_dir.join("template-packages"));
    let mut packages = packages::find(&packages_dir, accounts::blockhost(host)?)?;
    host.step("template.checked")?;

    folder.make_work()?;
    let sums = copy_packages(host, &folder, &mut packages)?;
    let key = image::fetch_small(host, &request.node_key)?;
    let key_file = template_image::key_file(&key)
        .ok_or_else(|| anyhow::anyhow!("{} is no OpenPGP key", request.node_key))?;
    let image = image::obtain(host, &folder, &request.image, progress)?;
    host.step("template.image")?;
    let source = template_image::node_source(&request.node_repository, &request.node_suite, key_file);
    let recipe = recipe(request, &wanted, &image, &sums, &source, &key);
    if finished.as_ref() == Some(&recipe) {
        tracing::info!(
            "completed the interrupted build from the same image and packages; nothing left to do"
        );
        folder.tidy()?;
        return Ok(Built { vmid: request.vmid, name: wanted.name });
    }

    let inside = Inside { key, key_file, source, packages: sums.len() };
    let disk = customised(host, &folder, &image, &recipe, &inside)?;
    host.step("template.customised")?;
    put_template(
        host,
        &tools,
        &folder,
        request,
        found,
        wanted.clone(),
        recipe,
        &disk,
        &terraform_dir,
        progress,
    )?;
    host.reached("template.done")?;
    folder.tidy()?;
    Ok(Built { vmid: request.vmid, name: wanted.name })
}

/// Determines the guests' bridge: the flag, else tfvars, else db.yaml; either file may be written only after this runs.
fn bridge(host: &Host, request: &Request, terraform_dir: &Path) -> anyhow::Result<BridgeName> {
    if let Some(bridge) = &request.bridge {
        return Ok(bridge.clone());
    }
    let tfvars = terraform_dir.join("terraform.tfvars");
    let found = if tfvars.exists() { Tfvars::read(&tfvars)? } else { Tfvars::default() };
    let named = found
        .get("proxmox_bridge")
        .map(|text| BridgeName::parse(text).with_context(|| format!("{}: proxmox_bridge", tfvars.display())));
    let in_db_yaml = || Ok(Settings::read_if_there(host)?.map(|settings| settings.bridge));
    guests_bridge(named.transpose()?, in_db_yaml)
}

/// Checks everything about the node that can be known beforehand.
fn check_node(
    tools: &ProxmoxCli,
    request: &Request,
    wanted: &Wanted,
    terraform_dir: &Path,
) -> anyhow::Result<Present> {
    let (vmid, storage) = (request.vmid, &request.storage);
    let row = tools.storage(storage)?.ok_or_else(|| {
        anyhow::anyhow!(
            "storage {storage} does not exist or does not accept disks (content type images); name \
            another with --storage"
        )
    })?;
    anyhow::ensure!(row.active, "storage {storage} is not active (pvesm status)");
    anyhow::ensure!(
        row.available_kib >= STORAGE_ROOM_KIB,
        "storage {storage} has {} MiB free, but {} MiB are needed",
        row.available_kib >> 10,
        STORAGE_ROOM_KIB >> 10
    );
    if let Err(why) = tools.bridge(&BridgeName::parse(&wanted.bridge)?)? {
        anyhow::bail!("the node has no bridge {} ({why}); name another with --bridge", wanted.bridge);
    }
    let Some(config) = tools.config(vmid)? else {
        anyhow::ensure!(
            tools.is_free(vmid)?,
            "VMID {vmid} is taken by another guest of the cluster; choose another with --template-vmid"
        );
        no_volumes(tools, vmid, storage)?;
        return Ok(Present::Nothing);
    };
    anyhow::ensure!(
        config.is_template() && template_image::is_template_name(config.name()),
        "VMID {vmid} has {} {:?}, which is not a template of ours; nothing was done; choose another with \
         --template-vmid",
        if config.is_template() { "the template" } else { "VM" },
        config.name()
    );
    let linked = linked::linked_clones(tools, vmid, &config, terraform_dir)?;
    anyhow::ensure!(linked.is_empty(), "{}", replace::keeps(vmid, &linked));
    Ok(Present::Template(config))
}

/// A volume with the VMID of no VM would be in the way, and could not be told from ours later.
fn no_volumes(tools: &ProxmoxCli, vmid: Vmid, storage: &StorageId) -> anyhow::Result<()> {
    let left = tools.volumes(storage.as_str(), Some(vmid))?;
    let names: Vec<&str> = left.iter().map(|volume| volume.volid.as_str()).collect();
    anyhow::ensure!(
        names.is_empty(),
        "VM {vmid} does not exist, but storage {storage} has volumes with that number: {}; if they are not needed, \
         remove them with pvesm free",
        names.join(", ")
    );
    Ok(())
}

/// Completes or removes what a killed build left on the node; returns the recipe of a completed template.
fn recover(
    folder: &WorkFolder,
    terraform_dir: &Path,
    progress: &mut dyn Progress,
) -> anyhow::Result<Option<String>> {
    let Some(entry) = journal::read(folder)? else { return Ok(None) };
    let host = ProxmoxHost::parse(&entry.host)?;
    // It may have worked on another node than the one requested now.
    let tools = ProxmoxCli::on(folder.doors, host, Interrupt::never());
    match &entry.replacing {
        None => {
            tracing::info!("removing the leftover of an earlier build: VM {}", entry.made.vmid);
            undo(&tools, folder, &entry)?;
            Ok(None)
        }
        Some(replacing) => {
            tracing::info!("completing an earlier build: template {}", entry.vmid);
            match replace::finish(&tools, folder, &entry, replacing, terraform_dir, progress)? {
                Finished::Done => Ok(Some(entry.recipe)),
                Finished::Abandoned(why) => {
                    tracing::warn!("an earlier build was abandoned: {why}");
                    Ok(None)
                }
            }
        }
    }
}

/// Removes a VM that was being made, and its journal entry.
fn undo(tools: &ProxmoxCli, folder: &WorkFolder, entry: &Entry) -> anyhow::Result<()> {
    let tools = &tools.uninterrupted();
    let made = entry.made_vmid()?;
    let ours = |config: &GuestConfig| machine::is(config, entry.made.uuid);
    let purge = entry.made.vmid != entry.vmid;
    match machine::remove(tools, made, &entry.wanted.storage, ours, purge)? {
        Removed::Gone => {}
        Removed::Stranger(why) => tracing::warn!("{why}; nothing was removed there"),
    }
    tools.doors.reached("template.undone")?;
    if !purge {
        replace::give_back(tools, made, entry)?;
    }
    tools.take_away(&entry.remote_folder)?;
    journal::remove(folder)
}

fn copy_packages(host: &Host, folder: &WorkFolder, packages: &mut [Package]) -> anyhow::Result<Vec<Sum>> {
    let mut sums = Vec::new();
    for (index, package) in packages.iter_mut().enumerate() {
        sums.push(package.copy(host.doors, &folder.work().join(package_file(index)), &host.interrupt)?);
        tracing::info!("package {}", package.shown);
    }
    Ok(sums)
}

/// A package's file name in the work directory and in the image.
fn package_file(index: usize) -> String {
    format!("{:02}.deb", index + 1)
}

/// Hash of everything that the image and the template are made of, in 16 digits.
fn recipe(
    request: &Request,
    wanted: &Wanted,
    image: &Image,
    packages: &[Sum],
    source: &str,
    key: &[u8],
) -> String {
    let mut parts: Vec<String> =
        SCRIPTS.iter().map(|(_, text)| Sum::of(text.as_bytes()).to_string()).collect();
    parts.extend([image.sum.to_string(), Sum::of(key).to_string(), Sum::of(source.as_bytes()).to_string()]);
    parts.extend(packages.iter().map(Sum::to_string));
    parts.extend([request.host.to_string(), request.vmid.to_string(), wanted.name.clone()]);
    parts.extend([wanted.storage.clone(), wanted.bridge.clone()]);
    Sum::of(parts.join("\n").as_bytes()).short()
}

/// What goes into the image in addition to the scripts.
struct Inside {
    key: Vec<u8>,
    key_file: &'static str,
    source: String,
    packages: usize,
}

/// Returns the image with everything installed: one left by an earlier run that got no further, or made now.
fn customised(
    host: &Host,
    folder: &WorkFolder,
    image: &Image,
    recipe: &str,
    inside: &Inside,
) -> anyhow::Result<PathBuf> {
    let done = folder.customised(recipe, image.format);
    let fresh = is_fresh(host, &done);
    folder.remove_customised(fresh.then_some(done.as_path()))?;
    if fresh {
        tracing::info!("using the image that an earlier run customised");
        return Ok(done);
    }
    folder.need(image.length + GROWTH, "a copy of the image")?;
    let work = folder.work();
    let disk = format!("disk.{}", image.format);
    let mut copy = GrowingFile::begin(host.doors, &work.join(&disk))?;
    copy.append_file(&mut large_file::open_plain(&image.path)?, u64::MAX, &host.interrupt, |_| {})?;
    drop(copy);
    for (name, text) in SCRIPTS {
        replace_file::replace(host.doors, &work.join(name), text.as_bytes(), 0o600, "template-script")?;
    }
    replace_file::replace(host.doors, &work.join(inside.key_file), &inside.key, 0o600, "template-key")?;
    replace_file::replace(
        host.doors,
        &work.join("nodesource.sources"),
        inside.source.as_bytes(),
        0o600,
        "template-source",
    )?;
    let upload = |file: &str, to: &str| Act::Upload(file.to_owned(), format!("{to}/{file}"));
    let mut acts = vec![Act::MakeFolder(INSIDE.into()), Act::MakeFolder("/etc/apt/keyrings".into())];
    acts.push(upload(inside.key_file, "/etc/apt/keyrings"));
    acts.push(upload("nodesource.sources", "/etc/apt/sources.list.d"));
    acts.extend((0..inside.packages).map(|index| upload(&package_file(index), INSIDE)));
    acts.extend(SCRIPTS.iter().map(|(name, _)| Act::Run((*name).to_owned())));
    host.step("template.customising")?;
    tracing::info!("customising the image; this takes some minutes, more where the host has no KVM");
    virt_customize::customise(&work, &disk, image.format, &acts, host, |step| {
        tracing::info!("image: {step}");
    })
    .context("failed to customise the image; nothing was done on the node")?;
    host.reached("template.customised.before")?;
    large_file::complete(host.doors, &work.join(&disk), &done)?;
    Ok(done)
}

fn is_fresh(host: &Host, path: &Path) -> bool {
    let Ok(made) = path.symlink_metadata().and_then(|data| data.modified()) else { return false };
    let age = host.now() - chrono::DateTime::<chrono::Utc>::from(made);
    (0..FRESH_HOURS * 3600).contains(&age.num_seconds())
}

/// Makes the VM and puts it at the template's VMID.
#[allow(clippy::too_many_arguments, reason = "called once, with all that the build has found out")]
fn put_template(
    host: &Host,
    tools: &ProxmoxCli,
    folder: &WorkFolder,
    request: &Request,
    found: Present,
    wanted: Wanted,
    recipe: String,
    disk: &Path,
    terraform_dir: &Path,
    progress: &mut dyn Progress,
) -> anyhow::Result<()> {
    let (grants, pool) = rights(tools, request.vmid, &found)?;
    let at = match &found {
        Present::Nothing => request.vmid,
        Present::Template(_) => staging_vmid(tools, request.vmid, &request.storage)?,
    };
    let uuid = Uuid::new_v4();
    let mut entry = Entry {
        host: request.host.to_string(),
        vmid: request.vmid.get(),
        wanted,
        recipe,
        made: Made { vmid: at.get(), uuid },
        replacing: None,
        grants,
        pool,
        remote_folder: format!("/var/tmp/blockhost-template-{uuid}"),
    };
    journal::write(folder, &entry)?;
    let made = make(host, tools, &entry, disk, matches!(found, Present::Nothing), progress).and_then(|()| {
        match &found {
            Present::Nothing => Ok(()),
            Present::Template(_) => last_look(tools, request.vmid, &found, terraform_dir),
        }
    });
    if let Err(error) = made {
        return Err(match undo(tools, folder, &entry) {
            Ok(()) => error,
            Err(undoing) => error.context(format!(
                "VM {at} is incomplete and the next run removes it (removing it now failed: {undoing:#}); the first \
                 error was"
            )),
        });
    }
    let Present::Template(old) = found else {
        tools.uninterrupted().take_away(&entry.remote_folder)?;
        return journal::remove(folder);
    };
    let replacing = Replacement {
        old_uuid: old.uuid().to_owned(),
        old_name: old.name().to_owned(),
        build: Uuid::new_v4(),
    };
    entry.replacing = Some(replacing.clone());
    journal::write(folder, &entry)?;
    host.reached("template.replacing")?;
    match replace::finish(tools, folder, &entry, &replacing, terraform_dir, progress)? {
        Finished::Done => Ok(()),
        Finished::Abandoned(why) => anyhow::bail!("{why}"),
    }
}

/// Makes the VM. If the template's VMID was free, also converts it into a template.
fn make(
    host: &Host,
    tools: &ProxmoxCli,
    entry: &Entry,
    disk: &Path,
    convert: bool,
    progress: &mut dyn Progress,
) -> anyhow::Result<()> {
    host.step("template.journalled")?;
    let file = tools.bring(disk, &entry.remote_folder)?;
    host.step("template.brought")?;
    let at = entry.made_vmid()?;
    let mut description = machine::description(&entry.wanted.name, entry.made.uuid);
    if convert {
        tracing::info!("making VM {at}");
    } else {
        description.push_str(&format!(", being built for VMID {}", entry.vmid));
        tracing::info!("building VM {at}, which will replace template {}", entry.vmid);
    }
    machine::make(tools, at, entry.made.uuid, &entry.wanted, &description, &file, progress)?;
    host.step("template.made")?;
    if convert {
        machine::convert(tools, at, &entry.wanted)?;
        host.step("template.verified")?;
    }
    Ok(())
}

/// Last check before the old template is destroyed: it is still the one that was found, and has no linked clones (H02).
fn last_look(tools: &ProxmoxCli, vmid: Vmid, found: &Present, terraform_dir: &Path) -> anyhow::Result<()> {
    let Present::Template(old) = found else { return Ok(()) };
    let now = tools.config(vmid)?.unwrap_or_default();
    anyhow::ensure!(
        now.uuid() == old.uuid() && now.name() == old.name() && now.is_template(),
        "VMID {vmid} now has a different VM, {:?}; nothing was done",
        now.name()
    );
    let linked = linked::linked_clones(tools, vmid, &now, terraform_dir)?;
    anyhow::ensure!(linked.is_empty(), "{}", replace::keeps(vmid, &linked));
    Ok(())
}

/// Reads what Proxmox forgets when a VM is destroyed: the permissions on its VMID, including those older than the VM,
/// and its pool.
fn rights(tools: &ProxmoxCli, vmid: Vmid, found: &Present) -> anyhow::Result<(Vec<Grant>, Option<String>)> {
    let pool = match found {
        Present::Nothing => None,
        Present::Template(_) => tools.pool(vmid)?,
    };
    Ok((tools.grants(vmid)?, pool))
}

/// Finds a free VMID without volumes, above the template's: the cluster's lowest free one would be the next customer's.
fn staging_vmid(tools: &ProxmoxCli, template: Vmid, storage: &StorageId) -> anyhow::Result<Vmid> {
    for number in 1..=100 {
        let Ok(vmid) = Vmid::new(u64::from(template.get()) + number) else { break };
        if tools.config(vmid)?.is_none()
            && tools.is_free(vmid)?
            && tools.volumes(storage.as_str(), Some(vmid))?.is_empty()
        {
            return Ok(vmid);
        }
    }
    anyhow::bail!(
        "none of the 100 VMIDs after {template} is free for the new template while the old one exists"
    )
}

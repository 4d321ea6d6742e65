//! The terraform directory belongs to user blockhost, and all work in it is done as that user: root hands the work to a
//! process of this user, as JSON on its standard input (the token must not appear in arguments, H30).

use super::Setup;
use super::choices::Choices;
use crate::host::Host;
use crate::host::doors::Doors;
use crate::host::replace_file::{self, PRIVATE};
use crate::host::run_process::{self, Input, Limit, Program, Stream};
use crate::plan::terraform_settings;
use crate::store::tfvars::{self, Setting};
use crate::value::token::{ApiToken, Secret};
use anyhow::Context as _;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hidden step's name.
pub const STEP: &str = "terraform-folder";
/// The provider's directory in a mirror.
const PROVIDER: &str = "registry.terraform.io/bpg/proxmox";
const PLATFORM: &str = "linux_amd64";
/// Time limit of `terraform init`; most of it is for downloading the provider.
const LIMIT: Duration = Duration::from_secs(280);

/// Returns the token in `terraform.tfvars`, if it has one.
pub(super) fn token(folder: &Path) -> Option<ApiToken> {
    let values = tfvars::Tfvars::read(&folder.join("terraform.tfvars")).ok()?;
    ApiToken::parse(values.get("proxmox_api_token")?).ok()
}

/// Writes the token into `terraform.tfvars`.
pub(super) fn set_token(setup: &Setup<'_>, token: &ApiToken) -> anyhow::Result<()> {
    hand_over(setup, &json!({"token": token.reveal()}))
}

/// Writes all of terraform's files and runs `terraform init`.
pub(super) fn set_up(setup: &Setup<'_>, token: &ApiToken, node: &str) -> anyhow::Result<()> {
    let Choices { storage, bridge, template, vmids, .. } = &setup.choices;
    let settings = json!({
        "proxmox_node": node,
        "proxmox_storage": storage.as_str(),
        "proxmox_bridge": bridge.as_str(),
        "template_vmid": template.get(),
        "vmid_start": vmids.start.get(),
        "vmid_end": vmids.end.get(),
    });
    let mirror = &setup.choices.provider_mirror;
    hand_over(setup, &json!({"token": token.reveal(), "settings": settings, "mirror": mirror}))
}

/// Runs the hidden step as user blockhost. If the directory is missing and its parent belongs to somebody else, it is
/// created first and given to user blockhost. If it belongs to root, as a person or an older package has left it, it is
/// given to that user with everything in it.
fn hand_over(setup: &Setup<'_>, work: &Value) -> anyhow::Result<()> {
    let folder = &setup.choices.terraform_dir;
    let own = rustix::process::geteuid().as_raw();
    let left_to_us = replace_file::owner_of(folder).is_ok_and(|(uid, _)| uid == own);
    if left_to_us && setup.account.uid != own {
        for path in replace_file::give_tree(folder, setup.account)? {
            tracing::warn!(
                "left the owner of {} unchanged: it is not a regular file, or has another hard link; check whose it is",
                path.display()
            );
        }
    }
    if !folder.exists()
        && let Some(parent) = folder.parent()
        && replace_file::owner_of(parent).is_ok_and(|(uid, _)| uid != setup.account.uid)
    {
        replace_file::make_folder_for(setup.host.doors, folder, 0o750, setup.account)?;
    }
    let mut work = work.clone();
    work["folder"] = json!(folder);
    by_blockhost(setup, STEP, &work).with_context(|| format!("the work in {}", folder.display()))
}

/// Runs a hidden step with the privileges of user blockhost, in whose directories root does nothing (hazard H56). The
/// work is passed on standard input.
pub(super) fn by_blockhost(setup: &Setup<'_>, step: &str, work: &Value) -> anyhow::Result<()> {
    let own = run_process::own_program()?;
    let name = own.to_str().context("the path of this program is not valid UTF-8")?;
    let program = Program {
        name,
        arguments: vec![step.into()],
        folder: Path::new("/"),
        environment: vec![("HOME", setup.host.state_dir.clone().into())],
        without: &[],
    };
    let input = Input::Text(work.to_string());
    let limit = Limit { work: LIMIT + Duration::from_secs(10), grace: Duration::from_secs(20) };
    let account = Some(setup.account);
    let ended = run_process::run_as(
        setup.host.doors,
        &program,
        account,
        input,
        limit,
        &setup.host.interrupt,
        |stream, line| {
            if stream == Stream::Error {
                tracing::info!("{line}");
            }
        },
    )?;
    let answer: Value = serde_json::from_str(ended.stdout.trim())
        .with_context(|| format!("step {step} ended without an error message: {}", ended.last_words()))?;
    match answer.get("error").and_then(Value::as_str) {
        None => Ok(()),
        Some(error) => Err(anyhow::anyhow!("{error}")),
    }
}

/// What to do in the directory.
struct Work {
    folder: PathBuf,
    token: Secret,
    /// All other values of `terraform.tfvars`; `None` sets only the token and does nothing else.
    settings: Option<Map<String, Value>>,
    /// Where to get the provider instead of its registry.
    mirror: Option<PathBuf>,
}

impl Work {
    fn parse(input: &str) -> anyhow::Result<Work> {
        let value: Value =
            serde_json::from_str(input).map_err(|_| anyhow::anyhow!("the work is not JSON"))?;
        let text = |key: &str| value[key].as_str().with_context(|| format!("the work has no {key}"));
        Ok(Work {
            folder: text("folder")?.into(),
            token: Secret::new(ApiToken::parse(text("token")?)?.reveal()),
            settings: value["settings"].as_object().cloned(),
            mirror: value["mirror"].as_str().map(PathBuf::from),
        })
    }
}

/// The hidden step: does the work it was given, with the privileges of whoever runs it.
pub fn run(host: &Host, input: &str) -> anyhow::Result<()> {
    let work = Work::parse(input)?;
    if let Some(mirror) = &work.mirror {
        check_mirror(mirror)?;
    }
    replace_file::make_folder(host.doors, &work.folder, 0o750)?;
    let files =
        ["terraform.tfvars", "variables.tf.json", "provider.tf.json"].map(|name| work.folder.join(name));
    let [values, variables, provider] = &files;
    let before: Vec<Option<Vec<u8>>> = files.iter().map(|path| bytes(path)).collect::<Result<_, _>>()?;
    let done = || -> anyhow::Result<()> {
        write_values(host.doors, values, &work)?;
        host.step("setup.terraform.values")?;
        let Some(settings) = &work.settings else { return Ok(()) };
        write_json(
            host.doors,
            variables,
            &terraform_settings::variables(json_file(variables)?, settings),
            "variables",
        )?;
        host.step("setup.terraform.variables")?;
        write_json(host.doors, provider, &terraform_settings::provider(json_file(provider)?), "provider")?;
        host.step("setup.terraform.provider")?;
        init(host, &work.folder, work.mirror.as_deref())
    };
    done().map_err(|error| match put_back(host.doors, &files, &before) {
        Ok(()) => error,
        Err(second) => error.context(format!("and restoring the previous files failed ({second})")),
    })
}

fn bytes(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match crate::host::read_file::bytes(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn put_back(doors: Doors, files: &[PathBuf], before: &[Option<Vec<u8>>]) -> anyhow::Result<()> {
    for (path, old) in files.iter().zip(before) {
        match old {
            Some(old) if bytes(path)?.as_ref() != Some(old) => {
                replace_file::replace(doors, path, old, PRIVATE, "terraform-undo")?;
            }
            Some(_) => {}
            None => replace_file::remove(path)?,
        }
    }
    Ok(())
}

/// Writes `terraform.tfvars`, keeping the values of other keys. A file that cannot be read is not overwritten (hazard
/// H17).
fn write_values(doors: Doors, path: &Path, work: &Work) -> anyhow::Result<()> {
    let old = bytes(path)?.map(String::from_utf8).transpose();
    let old =
        old.map_err(|_| anyhow::anyhow!("{}: not valid UTF-8 text", path.display()))?.unwrap_or_default();
    let mut keys = vec![("proxmox_api_token", Setting::Text(work.token.reveal().to_owned()))];
    for (key, value) in work.settings.iter().flatten() {
        let setting = match value.as_u64() {
            Some(number) => Setting::Number(number),
            None => Setting::Text(value.as_str().unwrap_or_default().to_owned()),
        };
        keys.push((key, setting));
    }
    let new = tfvars::set(&old, &keys).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    Ok(replace_file::replace(doors, path, new.as_bytes(), PRIVATE, "tfvars")?)
}

fn json_file(path: &Path) -> anyhow::Result<Value> {
    if !path.exists() {
        return Ok(json!({}));
    }
    let text = crate::host::read_file::text_for_people(path)?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{}: not valid JSON: {error}", path.display()))?;
    anyhow::ensure!(value.is_object(), "{}: expected an object", path.display());
    Ok(value)
}

fn write_json(doors: Doors, path: &Path, value: &Value, label: &str) -> anyhow::Result<()> {
    Ok(replace_file::replace(doors, path, format!("{value:#}\n").as_bytes(), PRIVATE, label)?)
}

/// Checks that a mirror has the provider: for each version a directory with one per platform, or zip files (as made by
/// `terraform providers mirror DIR`). terraform's own error for a missing provider does not say where it searched.
fn check_mirror(mirror: &Path) -> anyhow::Result<()> {
    let provider = mirror.join(PROVIDER);
    let entries = std::fs::read_dir(&provider).with_context(|| {
        format!(
            "provider_mirror: user blockhost cannot read {}; make the mirror with 'terraform providers mirror \
             -platform=linux_amd64 {}' on a machine with a network",
            provider.display(),
            mirror.display()
        )
    })?;
    let fits =
        |name: &str, path: &Path| name.ends_with(&format!("_{PLATFORM}.zip")) || path.join(PLATFORM).is_dir();
    let there = entries.flatten().any(|e| fits(&e.file_name().to_string_lossy(), &e.path()));
    anyhow::ensure!(there, "provider_mirror: {} has no version for {PLATFORM}", provider.display());
    Ok(())
}

/// Downloads the provider, or gets it only from the mirror if there is one; terraform does not remember the mirror.
fn init(host: &Host, folder: &Path, mirror: Option<&Path>) -> anyhow::Result<()> {
    let mut arguments: Vec<OsString> = ["init", "-input=false", "-no-color"].iter().map(Into::into).collect();
    if let Some(mirror) = mirror {
        let mut option = OsString::from("-plugin-dir=");
        option.push(mirror);
        arguments.push(option);
    }
    let program = Program {
        name: "terraform",
        arguments,
        folder,
        environment: vec![("TF_IN_AUTOMATION", "1".into()), ("CHECKPOINT_DISABLE", "1".into())],
        // A stray variable of the caller would supply what our files leave unset.
        without: &["PROXMOX_VE_", "TF_VAR_", "TF_DATA_DIR", "TF_WORKSPACE", "TF_CLI_ARGS"],
    };
    match mirror {
        Some(mirror) => {
            tracing::info!("terraform init in {} (provider from {})", folder.display(), mirror.display());
        }
        None => tracing::info!("terraform init in {} (fetches the provider)", folder.display()),
    }
    let deadline = host.deadline(LIMIT);
    run_process::run(host.doors, &program, Input::Nothing, deadline.left(), &host.interrupt, |_, _| {})
        .and_then(|ended| ended.successful(&program))
        .with_context(|| format!("terraform init in {} failed", folder.display()))?;
    let providers = folder.join(".terraform/providers");
    anyhow::ensure!(
        providers.is_dir(),
        "terraform init ended well, but {} is not there",
        providers.display()
    );
    Ok(())
}

//! A stand-in for the bpg/proxmox terraform provider, for tests: terraform's real plugin protocol outside,
//! the real provider's conversation with the Proxmox VE API inside, and faults at named points.
//!
//! One build stands in for every version from 0.93 to 0.111; the file name tells which (`version.rs`).
//!
//! Reading order: `provider.rs` (terraform's calls) → `vm/` and `file.rs` (the resources) → `api/` (the
//! node's API) → `schema/` (what terraform may write) → `plugin/` (how terraform talks to us). `fault.rs`
//! has the points at which tests may break it.
//!
//! Environment: `LAB_POLL_MS` shortens the second between two polls; `PROXMOX_VE_ENDPOINT`,
//! `PROXMOX_VE_API_TOKEN`, `PROXMOX_VE_INSECURE`, `PROXMOX_VE_MIN_TLS` fill what the configuration leaves
//! out, as with the real provider.

#![allow(clippy::disallowed_methods, reason = "those doors are the product's; this is a tool for tests")]

mod api;
mod diagnostic;
mod duration;
mod fault;
mod file;
mod plugin;
mod provider;
mod schema;
mod value;
mod version;
mod vm;

use provider::Provider;
use std::{io, path::PathBuf, process::ExitCode, sync::Arc};
use version::Version;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("terraform-provider-proxmox: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The real one takes this lock at every start, without limit: who holds it in a TMPDIR of all stops everybody.
fn take_the_lock_of_ids() -> io::Result<std::fs::File> {
    let path = std::env::temp_dir().join("terraform-provider-proxmox-id-gen.lock");
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(path)?;
    file.lock()?;
    Ok(file)
}

fn run() -> io::Result<()> {
    drop(take_the_lock_of_ids()?);
    let program: PathBuf = std::env::args_os().next().unwrap_or_default().into();
    let provider = Arc::new(Provider::new(Version::of_program(&program)).map_err(io::Error::other)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(plugin::serve::run(Arc::new(move |path, body| {
        let provider = provider.clone();
        Box::pin(async move { provider.call(&path, &body).await })
    })));
    // Whatever is still under way is the node's affair now: terraform has gone.
    runtime.shutdown_background();
    served
}

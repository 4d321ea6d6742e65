//! Checks that the directories named in db.yaml are writable, before a VM, its record or its files are touched: a
//! failure halfway would leave a VM without a record, or one that is off but not recorded as suspended.
//!
//! The usual cause is the sandbox of the nightly service, in which everything except `/var/lib/blockhost` is read-only
//! unless setup has added it (`crates/provisioner/src/operation/setup/sandbox.rs`).

use super::Context;
use crate::host::replace_file;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Checks terraform's directory and the database's, once per run of create, destroy and gc. A missing directory is not
/// an error here: whoever needs it reports it.
pub fn check(ctx: &Context<'_>) -> anyhow::Result<()> {
    let terraform = &ctx.settings.terraform_dir;
    let database = ctx.settings.db_file.parent().unwrap_or(Path::new("/"));
    for (key, folder) in [
        ("terraform_dir", terraform.as_path()),
        ("terraform_dir", &terraform.join("vms")),
        ("db_file", database),
    ] {
        match replace_file::may_write(folder) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                let file = ctx.host.config_file("db.yaml");
                anyhow::bail!("{}", refusal(&file, key, folder, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn refusal(file: &Path, key: &str, folder: &Path, error: &io::Error) -> String {
    let (file, folder) = (file.display(), folder.display());
    let advice = if error.kind() == ErrorKind::ReadOnlyFilesystem {
        "if only the nightly service fails, its sandbox lacks this directory: run blockhost-provisioner-setup db_config \
         </dev/null as root, which adds it in blockhost-gc.service.d/blockhost-paths.conf; otherwise remount the file \
         system writable"
            .to_owned()
    } else {
        format!(
            "give it to user blockhost (chown blockhost:blockhost), as whom this command works, or name another in {key}"
        )
    };
    format!("{file}: {key}: directory {folder} is not writable ({error}); nothing was done; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_key_directory_reason_and_the_way_out() {
        let file = Path::new("/etc/blockhost/db.yaml");
        let read_only = io::Error::from_raw_os_error(rustix::io::Errno::ROFS.raw_os_error());
        let text = refusal(file, "db_file", Path::new("/srv/db"), &read_only);
        for words in [
            "/etc/blockhost/db.yaml: db_file: directory /srv/db",
            "Read-only file system",
            "nothing was done",
            "blockhost-provisioner-setup db_config",
            "blockhost-paths.conf",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let denied = io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error());
        let text = refusal(file, "terraform_dir", Path::new("/srv/tf"), &denied);
        assert!(text.contains("chown blockhost:blockhost") && !text.contains("sandbox"), "{text}");
    }
}

//! `virt-customize`: runs our scripts inside an image, in a small VM of its own (libguestfs).
//!
//! It prints a line for each step on stdout. The scripts' output is kept in the image and appears on stderr only if a
//! script fails; then the lines marked for the operator become the error.

use crate::host::run_process::{self, Input, Program, RunError, Stream};
use crate::host::{self, Host};
use crate::plan::template_image::MARK;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// A small host without KVM needs more than ten minutes.
const LIMIT: Duration = Duration::from_secs(1500);
/// Maximum length in bytes of the output that an error repeats.
const WORDS: usize = 2_000;

/// One change of the image.
pub enum Act {
    /// Creates a directory, with its parents.
    MakeFolder(String),
    /// Copies a file of the working directory to this path.
    Upload(String, String),
    /// Runs a script of the working directory.
    Run(String),
}

/// Checks that it is installed.
pub fn check() -> anyhow::Result<()> {
    anyhow::ensure!(
        run_process::find("virt-customize").is_some(),
        "virt-customize is not installed (apt-get install libguestfs-tools)"
    );
    Ok(())
}

/// Changes `image`, a file in `folder`, which also contains the files of the acts; a failure leaves it half changed.
/// All names must be plain ones of ours, because the tool splits them at colons. `heard` is called for each step.
pub fn customise(
    folder: &Path,
    image: &str,
    format: &str,
    acts: &[Act],
    host: &Host,
    mut heard: impl FnMut(&str),
) -> anyhow::Result<()> {
    let mut arguments: Vec<OsString> =
        ["--format", format, "-a", image, "--no-logfile"].map(Into::into).into();
    for act in acts {
        let (option, value) = match act {
            Act::MakeFolder(path) => ("--mkdir", path.clone()),
            Act::Upload(file, path) => ("--upload", format!("{file}:{path}")),
            Act::Run(script) => ("--run", script.clone()),
        };
        arguments.push(option.into());
        arguments.push(value.into());
    }
    let mut environment = Vec::new();
    // Its temporary files are large, and /tmp may be in memory (Debian 13); in our directory the next run removes them.
    if host::variable("LIBGUESTFS_TMPDIR").is_none() {
        environment.push(("LIBGUESTFS_TMPDIR", folder.as_os_str().to_owned()));
    }
    let program = Program { name: "virt-customize", arguments, folder, environment, without: &[] };
    let mut marked = String::new();
    let mut own = String::new();
    let limit = host.limit("template-customise", LIMIT);
    let ended =
        run_process::run(host.doors, &program, Input::Nothing, limit, &host.interrupt, |stream, line| {
            match stream {
                Stream::Out => heard(line.split_once("] ").map_or(line, |(_, step)| step)),
                Stream::Error => {
                    if let Some(words) = line.strip_prefix(MARK) {
                        add(&mut marked, words);
                    } else if line.starts_with("virt-customize: error")
                        || line.starts_with("libguestfs: error")
                    {
                        add(&mut own, line);
                    }
                }
            }
        });
    let failed = match ended {
        Ok(ended) if ended.status.success() => return Ok(()),
        Ok(ended) => {
            // No marked line and none of its own: killed by a signal, perhaps for lack of memory.
            if own.is_empty() {
                ended.successful(&short(&program)).err().map_or(own, |e| e.to_string())
            } else {
                own
            }
        }
        Err(RunError::TimedOut { limit, .. }) => {
            format!("virt-customize did not finish within {} s and was stopped", limit.as_secs())
        }
        Err(other) => return Err(other.into()),
    };
    if !marked.is_empty() {
        anyhow::bail!("{marked}");
    }
    anyhow::bail!("{failed}; libguestfs-test-tool shows whether libguestfs works on this host");
}

fn add(words: &mut String, line: &str) {
    if words.len() + line.len() < WORDS {
        if !words.is_empty() {
            words.push_str("; ");
        }
        words.push_str(line.trim());
    }
}

/// Returns the program without its many arguments, for a message.
fn short<'a>(program: &Program<'a>) -> Program<'a> {
    let environment = Vec::new();
    Program { name: program.name, arguments: vec![], folder: program.folder, environment, without: &[] }
}

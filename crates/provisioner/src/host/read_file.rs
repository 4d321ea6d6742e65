//! All reading of files goes through here: something else in a file's place (a pipe, a device, an endless file) must
//! not make a command hang, use up the memory or ignore signals.
//!
//! Links are followed, since configuration is often linked. Where root reads next to other users' files, it uses
//! [`super::large_file::open_plain`].

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// Maximum size in bytes of a configuration file, a state file, a journal entry or a template, far beyond any that
/// exist.
pub const LIMIT: u64 = 16 << 20;

/// Opens a regular file for reading. Refuses anything else, and never blocks.
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    let path = path.as_ref();
    // Checked before opening, since merely opening some devices has an effect (a watchdog, a tape).
    regular(&path.metadata()?)?;
    // It may have become a pipe in between: hence non-blocking, and checked again.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    regular(&file.metadata()?)?;
    Ok(file)
}

/// A directory that another user may control: nothing read through it lies outside, whatever links are in it or appear
/// meanwhile (hazard H56).
#[derive(Debug)]
pub struct Beneath(OwnedFd);

impl Beneath {
    /// Opens the directory itself; links in its path are followed.
    pub fn open(folder: &Path) -> io::Result<Beneath> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Beneath(rustix::fs::open(folder, flags, Mode::empty())?))
    }

    /// Lists a directory in it; `.` is the directory itself.
    pub fn names(&self, folder: impl AsRef<Path>) -> io::Result<Vec<OsString>> {
        let opened = self.open_at(folder.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&opened)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Reads a text file in it; refuses a link in the file's place.
    pub fn text(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let file = File::from(self.open_at(path.as_ref(), flags)?);
        regular(&file.metadata()?)?;
        as_text(all_of(file, LIMIT)?)
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        // The kernel returns EAGAIN if a directory is being moved just then.
        for _ in 0..16 {
            match rustix::fs::openat2(
                &self.0,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            ) {
                Err(rustix::io::Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
        Err(rustix::io::Errno::AGAIN.into())
    }
}

/// Opens a regular file of at most `limit` bytes.
pub fn open_up_to(path: impl AsRef<Path>, limit: u64) -> io::Result<File> {
    let file = open(path)?;
    if file.metadata()?.len() > limit { Err(too_large(limit)) } else { Ok(file) }
}

fn too_large(limit: u64) -> io::Error {
    io::Error::other(format!("it has more than {} MiB", limit >> 20))
}

/// Reads a whole file of at most [`LIMIT`] bytes.
pub fn bytes(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    bytes_up_to(path, LIMIT)
}

/// Reads a whole file of at most `limit` bytes.
pub fn bytes_up_to(path: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
    all_of(open_up_to(path, limit)?, limit)
}

fn all_of(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(limit)).unwrap_or_default());
    // It may grow while it is read, and files in /proc report a size of 0.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_large(limit)) } else { Ok(bytes) }
}

/// Reads a whole text file.
pub fn text(path: impl AsRef<Path>) -> io::Result<String> {
    as_text(bytes(path)?)
}

fn as_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not valid UTF-8 text"))
}

fn regular(found: &std::fs::Metadata) -> io::Result<()> {
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if found.is_file() { Ok(()) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Reads a text file; the error names the file and says whether it is missing.
pub fn text_for_people(path: &Path) -> anyhow::Result<String> {
    text(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if path.ends_with("db.yaml") => anyhow::anyhow!(
            "{} does not exist: this host has not been set up; run blockhost-provisioner-setup db_config",
            path.display()
        ),
        io::ErrorKind::NotFound => anyhow::anyhow!("{} does not exist", path.display()),
        io::ErrorKind::PermissionDenied if path.ends_with("db.yaml") => {
            anyhow::anyhow!(
                "cannot read {}: {error}; run the command as root or as user blockhost",
                path.display()
            )
        }
        io::ErrorKind::InvalidData => anyhow::anyhow!("{}: not valid UTF-8 text", path.display()),
        _ => anyhow::anyhow!("cannot read {}: {error}", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_a_device_and_a_file_without_end_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(text(&pipe).unwrap_err().to_string(), "it is not a regular file");
        assert_eq!(text("/dev/zero").unwrap_err().to_string(), "it is not a regular file");
        assert_eq!(text(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let huge = dir.path().join("huge");
        File::create(&huge).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(text(&huge).unwrap_err().to_string(), "it has more than 16 MiB");
        assert!(bytes_up_to("/proc/self/maps", 10).is_err(), "its length is told by reading alone");
        std::fs::write(&huge, b"\xff").unwrap();
        assert_eq!(text(&huge).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(text(dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link")).unwrap();
        assert!(text(dir.path().join("link")).is_ok());
    }
}

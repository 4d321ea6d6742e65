//! Files too large for a single write: disk images. They grow piece by piece under a temporary name, are hashed, and
//! get their real name once complete (hazard H14).
//!
//! A link in the last component of a path is never followed: root works here next to directories that others can write
//! to (H29).

use super::doors::Doors;
use super::interrupt::Interrupt;
use super::replace_file::folder_of;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha512};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PIECE: usize = 1 << 20;
/// Mode of new files: only their owner may read them, since their content is nobody else's business until it is a
/// template.
const OWN: u32 = 0o600;

/// A file being written.
#[derive(Debug)]
pub struct GrowingFile {
    file: File,
    path: PathBuf,
    length: u64,
}

impl GrowingFile {
    /// Opens `path` to continue at its end, and creates it if missing.
    pub fn open(doors: Doors, path: &Path) -> io::Result<GrowingFile> {
        GrowingFile::open_as(doors, path, OFlags::empty())
    }

    /// Starts `path` over as an empty file.
    pub fn begin(doors: Doors, path: &Path) -> io::Result<GrowingFile> {
        GrowingFile::open_as(doors, path, OFlags::TRUNC)
    }

    fn open_as(doors: Doors, path: &Path, more: OFlags) -> io::Result<GrowingFile> {
        let open = || -> io::Result<GrowingFile> {
            doors.before_write()?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = File::from(rustix::fs::open(path, flags | more, Mode::from_raw_mode(OWN))?);
            let found = file.metadata()?;
            if !found.is_file() {
                return Err(io::Error::other("it is not a regular file"));
            }
            Ok(GrowingFile { file, path: path.to_owned(), length: found.len() })
        };
        open().map_err(|error| in_words("write", path, &error))
    }

    /// Size in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Truncates the file to `length` bytes.
    pub fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length).map_err(|error| in_words("write", &self.path, &error))?;
        self.length = length;
        Ok(())
    }

    /// Appends bytes.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = || -> io::Result<()> {
            (&self.file).seek(SeekFrom::Start(self.length))?;
            (&self.file).write_all(bytes)
        };
        write().map_err(|error| in_words("write", &self.path, &error))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Appends the first `length` bytes of another file, or all of it if it is shorter; `heard` is called with the
    /// resulting size after each piece.
    pub fn append_file(
        &mut self,
        from: &mut File,
        length: u64,
        interrupt: &Interrupt,
        mut heard: impl FnMut(u64),
    ) -> anyhow::Result<()> {
        from.rewind()?;
        let mut from = from.take(length);
        let mut piece = vec![0; PIECE];
        loop {
            interrupt.check()?;
            let read = from.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            self.append(&piece[..read])?;
            heard(self.length);
        }
    }

    /// Returns the SHA-512 of the content.
    pub fn sha512(&mut self, interrupt: &Interrupt, heard: impl FnMut(u64)) -> anyhow::Result<Sum> {
        sha512(&mut self.file, interrupt, heard)
    }

    /// Completes the file: syncs it to disk and renames it to `name`.
    #[allow(clippy::disallowed_methods, reason = "a file that is complete gets its real name (H14)")]
    pub fn complete(self, name: &Path) -> io::Result<()> {
        let complete = || -> io::Result<()> {
            self.file.sync_all()?;
            std::fs::rename(&self.path, name)?;
            open_folder(folder_of(name))?.sync_all()
        };
        complete().map_err(|error| in_words("write", name, &error))
    }
}

/// Syncs a complete file to disk and renames it to `name`.
pub fn complete(doors: Doors, path: &Path, name: &Path) -> io::Result<()> {
    GrowingFile::open(doors, path)?.complete(name)
}

/// Opens a regular file for reading; refuses a symbolic link.
pub fn open_plain(path: &Path) -> io::Result<File> {
    open_plain_at(rustix::fs::CWD, path)
}

/// Opens a directory, to list it and to open what is in it; refuses a symbolic link.
pub fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.map(File::from).map_err(|error| match error {
        // For a symbolic link the kernel reports only that it is not a directory.
        rustix::io::Errno::NOTDIR => io::Error::other("it is a symbolic link or not a directory"),
        other => other.into(),
    })
}

/// As [`open_plain`], relative to an open directory.
pub fn open_plain_at(directory: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = rustix::fs::openat(directory, name, flags, Mode::empty());
    let file = File::from(opened.map_err(|error| match error {
        rustix::io::Errno::LOOP => io::Error::other("it is a symbolic link"),
        other => other.into(),
    })?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Opens a directory; refuses a symbolic link.
pub fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Whether only the running user can change `file`, which may be a directory: that user owns it, and neither group nor
/// others may write to it.
pub fn ours_alone(file: &File) -> io::Result<bool> {
    let found = file.metadata()?;
    Ok(found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0)
}

/// A SHA-512 sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum([u8; 64]);

impl Sum {
    /// Returns the sum of a text.
    pub fn of(text: &[u8]) -> Sum {
        Sum(Sha512::digest(text).into())
    }

    /// Parses 128 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Sum> {
        let digits: Vec<u8> =
            text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        (digits.len() == 128).then(|| bytes.try_into().ok().map(Sum)).flatten()
    }

    /// The first 16 digits, enough to tell files apart.
    pub fn short(&self) -> String {
        self.to_string()[..16].to_owned()
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Returns the SHA-512 of a whole file; `heard` is called with the number of bytes read so far.
pub fn sha512(file: &mut File, interrupt: &Interrupt, mut heard: impl FnMut(u64)) -> anyhow::Result<Sum> {
    file.rewind()?;
    let mut hash = Sha512::new();
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    loop {
        interrupt.check()?;
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(Sum(hash.finalize().into()));
        }
        hash.update(&piece[..read]);
        done += read as u64;
        heard(done);
    }
}

fn in_words(verb: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {verb} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_read_and_written() {
        let sum = Sum::of(b"abc");
        let text = sum.to_string();
        assert!(text.starts_with("ddaf35a193617abacc417349ae204131"), "{text}");
        assert_eq!(Sum::parse(&text.to_uppercase()), Some(sum));
        assert_eq!(sum.short(), "ddaf35a193617aba");
        for bad in
            ["", "dd", &text[1..], &format!("{text}0"), &text.replace('d', "ä"), &text.replace('d', "g")]
        {
            assert_eq!(Sum::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn h14_a_file_grows_and_gets_its_name_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (part, name) = (dir.path().join("a.part"), dir.path().join("a"));
        GrowingFile::open(Doors::real(), &part).unwrap().append(b"one").unwrap();
        let mut again = GrowingFile::open(Doors::real(), &part).unwrap();
        assert_eq!(again.length(), 3);
        again.append(b"two").unwrap();
        assert!(!name.exists());
        assert_eq!(again.sha512(&Interrupt::never(), |_| {}).unwrap(), Sum::of(b"onetwo"));
        again.cut(4).unwrap();
        again.append(b"!").unwrap();
        again.complete(&name).unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"onet!");
        assert!(!part.exists());
    }

    #[test]
    fn h29_links_are_neither_read_nor_written() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "secret").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(
            GrowingFile::open(Doors::real(), &link).is_err()
                && GrowingFile::begin(Doors::real(), &link).is_err()
        );
        assert_eq!(open_plain(&link).unwrap_err().to_string(), "it is a symbolic link");
        assert!(open_plain(dir.path()).is_err());
        assert_eq!(std::fs::read(&target).unwrap(), b"secret");
    }

    #[test]
    fn a_signal_ends_hashing_and_copying() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![0; 3 * PIECE]).unwrap();
        let interrupt = Interrupt::never();
        interrupt.request(true);
        let mut file = open_plain(&path).unwrap();
        assert!(sha512(&mut file, &interrupt, |_| {}).is_err());
        let mut copy = GrowingFile::begin(Doors::real(), &dir.path().join("b")).unwrap();
        assert!(copy.append_file(&mut file, u64::MAX, &interrupt, |_| {}).is_err());
    }
}

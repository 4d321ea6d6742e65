//! Writes files completely or not at all (hazard H14), and so that those who need them can read them afterwards (H15).

use super::accounts::Account;
use super::doors::Doors;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of files that other BlockHost programs write too: the database, lock files.
pub const SHARED: u32 = 0o660;
/// Mode of files that contain secrets or are only ours.
pub const PRIVATE: u32 = 0o640;

/// Replaces the content of `path` with `bytes`: temporary file in the same directory, fsync, rename, fsync of the
/// directory.
///
/// An existing file keeps its owner, group and mode. A new one gets `mode` and, if root writes it, the directory's
/// owner and group, so that user blockhost can use it. `label` names the write in fault injection (`write.<label>.…`).
pub fn replace(doors: Doors, path: &Path, bytes: &[u8], mode: u32, label: &str) -> io::Result<()> {
    replace_inner(doors, path, bytes, mode, None, Sync::Yes, label)
        .map_err(|error| in_words("write", path, &error))
}

/// As [`replace`], for files written every second and worth nothing after a crash: readers see them complete, but
/// nobody waits until they are on disk.
pub fn replace_unsynced(doors: Doors, path: &Path, bytes: &[u8], mode: u32, label: &str) -> io::Result<()> {
    replace_inner(doors, path, bytes, mode, None, Sync::No, label)
        .map_err(|error| in_words("write", path, &error))
}

/// Whether a write is on the disk when it returns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sync {
    Yes,
    No,
}

/// As [`replace`], but with the given owner and mode instead of the old file's or the directory's: for configuration
/// owned by root and read by group blockhost.
pub fn replace_as(
    doors: Doors,
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Account,
    label: &str,
) -> io::Result<()> {
    replace_inner(doors, path, bytes, mode, Some(owner), Sync::Yes, label)
        .map_err(|error| in_words("write", path, &error))
}

#[allow(clippy::disallowed_methods, reason = "this is the room that replaces files")]
fn replace_inner(
    doors: Doors,
    path: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Option<Account>,
    sync: Sync,
    label: &str,
) -> io::Result<()> {
    let folder = folder_of(path);
    doors.reached(&format!("write.{label}.before"))?;
    doors.before_write()?;
    let mut temporary = temporary_in(folder)?;
    temporary.write_all(bytes)?;
    match (owner, path.symlink_metadata()) {
        (Some(owner), _) => {
            // A secret readable by the wrong group, or unreadable for its users, is worse than no file.
            rustix::fs::fchown(
                temporary.as_file(),
                Some(Uid::from_raw(owner.uid)),
                Some(Gid::from_raw(owner.gid)),
            )?;
            temporary.as_file().set_permissions(PermissionsExt::from_mode(mode))?;
        }
        (None, Ok(old)) if old.is_file() => {
            give_to(temporary.as_file(), old.uid(), old.gid());
            temporary.as_file().set_permissions(PermissionsExt::from_mode(old.mode() & 0o777))?;
        }
        _ => {
            give_to_owner_of(temporary.as_file(), folder)?;
            temporary.as_file().set_permissions(PermissionsExt::from_mode(mode))?;
        }
    }
    if sync == Sync::Yes {
        temporary.as_file().sync_all()?;
    }
    doors.reached(&format!("write.{label}.temporary"))?;
    temporary.persist(path).map_err(|e| e.error)?;
    doors.reached(&format!("write.{label}.renamed"))?;
    if sync == Sync::Yes { sync_folder(folder) } else { Ok(()) }
}

const TEMPORARY_PREFIX: &str = ".blockhost-";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Creates a temporary file and keeps it locked, so that the next writer in this directory can tell it from a leftover
/// of a killed writer. Such leftovers are removed first (hazard H05).
fn temporary_in(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    loop {
        remove_abandoned(folder);
        let file =
            tempfile::Builder::new().prefix(TEMPORARY_PREFIX).suffix(TEMPORARY_SUFFIX).tempfile_in(folder)?;
        // Between creation and locking, another writer may have taken it for a leftover.
        match file.as_file().try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {}
            Ok(()) if !super::is_there(file.path()) => {}
            // Where files cannot be locked, none is ever taken for a leftover.
            _ => return Ok(file),
        }
    }
}

/// Removes temporary files that nobody holds. What cannot be looked at or removed stays: it is litter, no danger.
#[allow(clippy::disallowed_methods, reason = "this is the room that removes files")]
pub fn remove_abandoned(folder: &Path) {
    for (path, lock) in abandoned_and_locked(folder) {
        let _ = std::fs::remove_file(path);
        // Not before: a writer that has just created the file would lock it, see that it is there, and lose it.
        drop(lock);
    }
}

/// The temporary files of a folder that nobody holds: half-written by commands that died.
pub fn abandoned(folder: &Path) -> Vec<PathBuf> {
    abandoned_and_locked(folder).map(|(path, _)| path).collect()
}

/// Each with the lock that proves that nobody holds it, for as long as the caller keeps it.
fn abandoned_and_locked(folder: &Path) -> impl Iterator<Item = (PathBuf, std::fs::File)> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if !name.starts_with(TEMPORARY_PREFIX.as_bytes()) || !name.ends_with(TEMPORARY_SUFFIX.as_bytes()) {
            return None;
        }
        let path = entry.path();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(&path, flags, Mode::empty()).map(std::fs::File::from).ok()?;
        file.try_lock().ok()?;
        Some((path, file))
    })
}

/// Sets the permission bits of a file of ours; a link, or what is no regular file, is refused.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.set_permissions(PermissionsExt::from_mode(mode))
}

/// Appends a line with a single write, so that lines of several processes never mix. A new file is writable by the
/// directory's group. A line cut short by a full disk stays as it is; the next one starts on a new line.
pub fn append_line(doors: Doors, path: &Path, line: &str) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let append = || -> io::Result<()> {
        doors.before_write()?;
        // Non-blocking: opening a pipe in the file's place would wait for a reader.
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = std::fs::File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(SHARED))?);
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut last = [b'\n'];
        if found.len() == 0 {
            give_to_owner_of(&file, folder_of(path))?;
            // If another process has just created it, its mode is not ours to change.
            let _ = file.set_permissions(PermissionsExt::from_mode(SHARED));
        } else {
            file.read_exact_at(&mut last, found.len() - 1)?;
        }
        let begin = if last == *b"\n" { "" } else { "\n" };
        file.write_all(format!("{begin}{line}\n").as_bytes())
    };
    append().map_err(|error| in_words("append to", path, &error))
}

/// Creates a directory with the given mode, owned like its parent, which must exist. An existing one is fine.
#[allow(clippy::disallowed_methods, reason = "this is the room that makes files")]
pub fn make_folder(doors: Doors, path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let make = || -> io::Result<()> {
        doors.before_write()?;
        match std::fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            other => other?,
        }
        let folder = super::large_file::open_folder(path)?;
        give_to_owner_of(&folder, folder_of(path))?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
        sync_folder(folder_of(path))
    };
    make().map_err(|error| in_words("make folder", path, &error))
}

/// Creates a directory and its missing parents, each owned like its own parent.
pub fn make_folders(doors: Doors, path: &Path, mode: u32) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.is_dir()).collect();
    missing.into_iter().rev().try_for_each(|folder| make_folder(doors, folder, mode))
}

/// Creates a directory for `owner` whose parent belongs to somebody else. A link put in its place meanwhile is not
/// followed.
#[allow(clippy::disallowed_methods, reason = "this is the room that makes files")]
pub fn make_folder_for(doors: Doors, path: &Path, mode: u32, owner: Account) -> io::Result<()> {
    let make = || -> io::Result<()> {
        doors.before_write()?;
        std::fs::create_dir(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
        rustix::fs::fchown(&folder, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
        folder.set_permissions(PermissionsExt::from_mode(mode))?;
        sync_folder(folder_of(path))
    };
    make().map_err(|error| in_words("make folder", path, &error))
}

/// Gives a directory, with the directories and regular files in it, to `owner`, each by the very handle that was
/// checked, the directory itself last. Somebody else may control a directory in it and have planted something (hazard
/// H56): symbolic links, files with further hard links (which may be root's own) and special files keep their owner.
/// Returns the paths of those left alone, except symbolic links, which terraform makes.
pub fn give_tree(path: &Path, owner: Account) -> io::Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    let mut give = || {
        let folder = rustix::fs::open(path, FOLDER, Mode::empty())?;
        give_folder(folder, path, owner, &mut left)
    };
    give().map_err(|error| in_words("give away", path, &error))?;
    Ok(left)
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn give_folder(folder: OwnedFd, path: &Path, owner: Account, left: &mut Vec<PathBuf>) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
    for entry in rustix::fs::Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let shown = path.join(OsStr::from_bytes(name.to_bytes()));
        // An O_PATH handle opens nothing: opening a pipe would block, and some devices act when opened.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
        let found = rustix::fs::fstat(&handle)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                let below = rustix::fs::openat(&handle, c".", FOLDER, Mode::empty())?;
                give_folder(below, &shown, owner, left)?;
            }
            FileType::RegularFile if found.st_nlink == 1 => {
                rustix::fs::chownat(&handle, c"", uid, gid, AtFlags::EMPTY_PATH)?;
            }
            FileType::Symlink => {}
            _ => left.push(shown),
        }
    }
    Ok(rustix::fs::fchown(&folder, uid, gid)?)
}

/// Opens a child's log, empty. It is created anew each time: whatever somebody put in its place (a link, a hard link, a
/// pipe) is removed, neither followed nor truncated (hazard H56).
pub fn empty_log(path: &Path) -> io::Result<std::fs::File> {
    let make = || -> io::Result<std::fs::File> {
        remove(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(std::fs::File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(PRIVATE))?))
    };
    make().map_err(|error| in_words("write", path, &error))
}

/// Makes `link` a symbolic link to `target`; an existing one is left as it is.
pub fn make_link(doors: Doors, target: &str, link: &Path) -> io::Result<()> {
    doors.before_write()?;
    match std::os::unix::fs::symlink(target, link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(in_words("make link", link, &error))
        }
        _ => Ok(()),
    }
}

/// Removes a file; a missing one is fine.
#[allow(clippy::disallowed_methods, reason = "this is the room that removes files")]
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder(folder_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(in_words("remove", path, &error)),
    }
}

/// Removes a directory if it is empty.
pub fn remove_empty_folder(path: &Path) {
    let _ = rustix::fs::rmdir(path);
}

/// Removes a directory with everything in it (links are removed, not followed); a missing one is fine.
#[allow(clippy::disallowed_methods, reason = "this is the room that removes files")]
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => sync_folder(folder_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(in_words("remove", path, &error)),
    }
}

/// Returns owner and group of a file or directory as numbers.
pub fn owner_of(path: &Path) -> io::Result<(u32, u32)> {
    let data = path.metadata()?;
    Ok((data.uid(), data.gid()))
}

/// Whether we run as root and must leave files that user blockhost can use.
pub fn are_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives a new file to its directory's owner and group if we are root; other users can only set the group, where the
/// kernel allows it.
pub(super) fn give_to_owner_of(file: &std::fs::File, folder: &Path) -> io::Result<()> {
    let (uid, gid) = owner_of(folder)?;
    give_to(file, uid, gid);
    Ok(())
}

fn give_to(file: &std::fs::File, uid: u32, gid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // An ordinary user may not give files away; setting only the group works if the user is a member of it.
    if rustix::fs::fchown(file, Some(uid), Some(gid)).is_err() {
        let _ = rustix::fs::fchown(file, None, Some(gid));
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    std::fs::File::from(rustix::fs::open(folder, flags, Mode::empty())?).sync_all()
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn in_words(verb: &str, path: &Path, error: &io::Error) -> io::Error {
    let advice = if error.kind() == io::ErrorKind::StorageFull { "; free space on that disk" } else { "" };
    io::Error::new(error.kind(), format!("cannot {verb} {}: {error}{advice}", path.display()))
}

/// Whether the calling user may create files in `folder`, and if not, why: even for root, a file system may be
/// read-only.
pub fn may_write(folder: &Path) -> io::Result<()> {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    Ok(rustix::fs::accessat(rustix::fs::CWD, folder, access, AtFlags::EACCESS)?)
}

/// Makes sure that files made by us and by terraform are never readable by all (H15); called once at the start of a
/// command.
pub fn set_umask() {
    rustix::process::umask(Mode::from_raw_mode(0o027));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h14_a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vms.json");
        replace(Doors::real(), &path, b"one", PRIVATE, "test").unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, PRIVATE);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        replace(Doors::real(), &path, b"two", SHARED, "test").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn h05_a_temporary_file_goes_with_the_next_write_unless_its_writer_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vms.json");
        let abandoned = dir.path().join(".blockhost-killed.tmp");
        std::fs::write(&abandoned, "half").unwrap();
        let held = temporary_in(dir.path()).unwrap();
        assert!(!abandoned.exists());
        replace(Doors::real(), &path, b"one", PRIVATE, "test").unwrap();
        assert!(held.path().exists(), "another writer still works on it");
        drop(held);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn h05_who_removes_leftovers_never_takes_the_file_of_a_writer_that_has_just_begun() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let file = temporary_in(dir.path()).unwrap();
                        std::thread::yield_now();
                        assert!(file.path().exists());
                    }
                });
            }
        });
    }

    #[test]
    fn h15_files_of_root_belong_to_the_owner_of_the_folder() {
        if !are_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(4242), Some(4343)).unwrap();
        let path = dir.path().join("new");
        replace(Doors::real(), &path, b"x", SHARED, "test").unwrap();
        assert_eq!(owner_of(&path).unwrap(), (4242, 4343));
        std::os::unix::fs::chown(&path, Some(0), Some(4343)).unwrap();
        replace(Doors::real(), &path, b"y", SHARED, "test").unwrap();
        assert_eq!(owner_of(&path).unwrap(), (0, 4343), "an existing file keeps its owner");
        let folder = dir.path().join("folder");
        make_folder(Doors::real(), &folder, 0o750).unwrap();
        assert_eq!(owner_of(&folder).unwrap(), (4242, 4343));
    }

    #[test]
    fn h56_what_somebody_put_into_a_tree_is_not_given_to_him() {
        if !are_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("terraform");
        std::fs::create_dir_all(tree.join("vms/web-1")).unwrap();
        for (file, text) in [("shadow", "root's own"), ("terraform/vms/web-1/state", "x"), ("outside", "y")] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        std::fs::hard_link(dir.path().join("shadow"), tree.join("vms/planted")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), tree.join("vms/link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), tree.join("vms/folder")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, tree.join("vms/pipe"), FileType::Fifo, mode, 0).unwrap();
        let mut left = give_tree(&tree, Account { uid: 4242, gid: 4343 }).unwrap();
        left.sort();
        assert_eq!(left, [tree.join("vms/pipe"), tree.join("vms/planted")]);
        let owner = |path: &str| dir.path().join(path).symlink_metadata().unwrap().uid();
        for given in ["terraform", "terraform/vms", "terraform/vms/web-1", "terraform/vms/web-1/state"] {
            assert_eq!(owner(given), 4242, "{given}");
        }
        for kept in ["", "shadow", "outside", "terraform/vms/pipe", "terraform/vms/link"] {
            assert_eq!(owner(kept), 0, "{kept}");
        }
        // A link in place of the tree itself.
        let link = dir.path().join("link-to-tree");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(give_tree(&link, Account { uid: 4242, gid: 4343 }).is_err());
        assert_eq!(owner("shadow"), 0);
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no-such-folder/file");
        let error = replace(Doors::real(), &path, b"x", PRIVATE, "test").unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.contains("no-such-folder/file"), "{error}");
    }
}

//! The publisher's image: first its checksum is fetched, then the image is taken from the cache or downloaded,
//! continuing an interrupted download.
//!
//! ```text
//!   SHA512SUMS ──▶ images/NAME has that sum? ──▶ done
//!                        │ no
//!                        ▼
//!                  images/NAME.SUM.part, from its end on ──▶ has it that sum? ──▶ images/NAME
//!                        ▲                                        │ no
//!                        └── from the start, once: the sums have ─┘
//!                            changed, or an old piece was wrong
//! ```
//!
//! Only the checksum decides. It is part of the partial file's name, so a download begun for another image is never
//! continued.

use super::progress::{Progress, Unit};
use super::work_folder::WorkFolder;
use crate::host::Host;
use crate::host::clock::Deadline;
use crate::host::http_download::{DownloadError, Patience, fetch};
use crate::host::large_file::{self, GrowingFile, Sum};
use crate::host::replace_file;
use crate::value::web_address::WebAddress;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest time without a byte; after that the request is repeated.
const SILENCE: Duration = Duration::from_secs(60);
/// Time limit for a whole image over a slow line; if the caller stops us earlier, the next run continues.
const ALL: Duration = Duration::from_secs(6 * 3600);
/// Consecutive attempts without a byte, after which the download fails.
const TRIES: u32 = 4;
/// How much the image grows in bytes when packages are installed.
const GROWTH: u64 = 1 << 30;
/// Maximum size in bytes of a checksum file or a signing key.
const SMALL: usize = 4 << 20;

/// A verified image in the cache.
pub struct Image {
    /// Path of its file.
    pub path: PathBuf,
    /// Its SHA-512 checksum.
    pub sum: Sum,
    /// Its size in bytes.
    pub length: u64,
    /// `qcow2` or `raw`.
    pub format: &'static str,
}

fn patience(host: &Host, all: Duration) -> Patience {
    Patience { silence: host.limit("template-silence", SILENCE), deadline: host.deadline(all) }
}

/// Waits before the next attempt.
fn pause(host: &Host, tries: u32) {
    host.sleep(host.limit("template-retry", Duration::from_secs(2 << tries.min(4))));
}

/// Whether another attempt may succeed.
fn passing(error: &DownloadError) -> bool {
    match error {
        DownloadError::Broken { .. } | DownloadError::CutOff { .. } | DownloadError::Silent { .. } => true,
        DownloadError::Status { status, .. } => *status >= 500 || *status == 429 || *status == 408,
        _ => false,
    }
}

/// Downloads a small file into memory.
pub fn fetch_small(host: &Host, address: &WebAddress) -> anyhow::Result<Vec<u8>> {
    let mut tries = 0;
    loop {
        let mut text = Vec::new();
        let all = patience(host, Duration::from_secs(300));
        let done = fetch(
            host.doors,
            address,
            0,
            all,
            &host.interrupt,
            |_| Ok(()),
            |bytes| {
                text.extend_from_slice(bytes);
                if text.len() > SMALL {
                    Err(io::Error::other(format!("{address} is too large")))
                } else {
                    Ok(())
                }
            },
        );
        match done {
            Ok(()) => return Ok(text),
            Err(error) if passing(&error) && tries + 1 < TRIES => {
                tracing::info!("{error}; trying again");
                pause(host, tries);
                tries += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns the image's checksum as published.
fn published_sum(host: &Host, address: &WebAddress, name: &str) -> anyhow::Result<Sum> {
    let sums = address.sibling("SHA512SUMS");
    let text = fetch_small(host, &sums)?;
    let text = String::from_utf8_lossy(&text);
    sum_of(&text, name).ok_or_else(|| {
        anyhow::anyhow!("{sums} has no SHA-512 checksum of {name}, so the image cannot be verified")
    })
}

/// Finds a file's checksum in the output format of `sha512sum`.
fn sum_of(text: &str, name: &str) -> Option<Sum> {
    text.lines().find_map(|line| {
        let (sum, file) = line.trim_end().split_once([' ', '\t'])?;
        let file = file.trim_start().trim_start_matches('*').trim_start_matches("./");
        (file == name).then(|| Sum::parse(sum)).flatten()
    })
}

/// Returns the image at `address`, verified by the publisher's checksum, from the cache or downloaded.
pub fn obtain(
    host: &Host,
    folder: &WorkFolder,
    address: &WebAddress,
    progress: &mut dyn Progress,
) -> anyhow::Result<Image> {
    let name = address
        .file_name()
        .ok_or_else(|| anyhow::anyhow!("the image address {address} does not end with a file name"))?;
    let mut sum = published_sum(host, address, name)?;
    let path = folder.images().join(name);
    if cached(host, &path, sum, progress)? {
        tracing::info!("image {name}: using the cached copy; its checksum matches the publisher's");
        return open_image(path, sum);
    }
    let deadline = host.deadline(ALL);
    let mut anew = false;
    loop {
        let part = folder.images().join(format!("{name}.{}.part", sum.short()));
        remove_other_parts(folder, name, &part)?;
        if anew {
            replace_file::remove(&part)?;
        }
        let (mut file, pieces) = download(host, folder, address, &part, deadline, progress)?;
        host.reached("template.fetched")?;
        if file.sha512(&host.interrupt, |_| {})? == sum {
            file.complete(&path)?;
            return open_image(path, sum);
        }
        drop(file);
        replace_file::remove(&part)?;
        let now = published_sum(host, address, name)?;
        anyhow::ensure!(
            !anew && (now != sum || pieces > 1),
            "checksum mismatch for {address}: its SHA-512 is not the one in {}; discarded the download",
            address.sibling("SHA512SUMS")
        );
        tracing::warn!(
            "image {name}: {}; downloading it from the start",
            if now != sum { "the publisher has a newer one" } else { "the parts do not match" }
        );
        sum = now;
        anew = true;
    }
}

fn cached(host: &Host, path: &Path, sum: Sum, progress: &mut dyn Progress) -> anyhow::Result<bool> {
    if !crate::host::is_there(path) {
        return Ok(false);
    }
    let mut file = large_file::open_plain(path)
        .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
    progress.begin("checking the image in the cache", Some(file.metadata()?.len()), Unit::Bytes);
    let found = large_file::sha512(&mut file, &host.interrupt, |done| progress.reach(done));
    progress.end();
    Ok(found? == sum)
}

/// Removes partial downloads of images that the publisher has replaced.
fn remove_other_parts(folder: &WorkFolder, name: &str, own: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder.images())?.flatten() {
        let path = entry.path();
        let file = entry.file_name().to_string_lossy().into_owned();
        if path != own && file.starts_with(&format!("{name}.")) && file.ends_with(".part") {
            replace_file::remove(&path)?;
        }
    }
    Ok(())
}

/// Downloads into the partial file until the server has no more; also returns in how many pieces it came, over all
/// runs.
fn download(
    host: &Host,
    folder: &WorkFolder,
    address: &WebAddress,
    part: &Path,
    deadline: Deadline,
    progress: &mut dyn Progress,
) -> anyhow::Result<(GrowingFile, u32)> {
    let mut file = GrowingFile::open(host.doors, part)?;
    let mut pieces = u32::from(file.length() > 0);
    let mut tries = 0;
    loop {
        let from = file.length();
        let patience = Patience { deadline, ..patience(host, ALL) };
        // A RefCell, because both closures write to them.
        let shared = std::cell::RefCell::new((&mut file, &mut *progress));
        let done = fetch(
            host.doors,
            address,
            from,
            patience,
            &host.interrupt,
            |begun| {
                let (file, progress) = &mut *shared.borrow_mut();
                if begun.from != 0 && begun.from != from {
                    return Err(io::Error::other(format!("{address} sent a different part than requested")));
                }
                if begun.from == 0 {
                    file.cut(0)?;
                    pieces = 0;
                }
                pieces += 1;
                if let Some(total) = begun.total {
                    let left = total.saturating_sub(begun.from);
                    folder.need(left + total + GROWTH, "the image").map_err(io::Error::other)?;
                }
                if begun.from > 0 {
                    tracing::info!("image: continuing at {} MiB", begun.from >> 20);
                }
                progress.begin("fetching the image", begun.total, Unit::Bytes);
                progress.reach(begun.from);
                Ok(())
            },
            |bytes| {
                let (file, progress) = &mut *shared.borrow_mut();
                file.append(bytes)?;
                progress.reach(file.length());
                Ok(())
            },
        );
        progress.end();
        host.reached("template.piece")?;
        match done {
            Ok(()) => return Ok((file, pieces)),
            // The server has nothing beyond what we have; the checksum shows whether that is complete.
            Err(DownloadError::Status { status: 416, .. }) if from > 0 => return Ok((file, pieces.max(2))),
            Err(error) if passing(&error) => {
                tries = if file.length() > from { 0 } else { tries + 1 };
                if tries >= TRIES {
                    return Err(anyhow::Error::from(error).context(
                        "failed to download the image; run the command again to continue where it stopped",
                    ));
                }
                tracing::info!("{error}; trying again");
                pause(host, tries);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Determines the image's format. Refuses an image that would make QEMU open other files.
fn open_image(path: PathBuf, sum: Sum) -> anyhow::Result<Image> {
    let file = large_file::open_plain(&path)?;
    let length = file.metadata()?.len();
    let mut head = [0u8; 512];
    let read = std::os::unix::fs::FileExt::read_at(&file, &mut head, 0)?;
    let format = format_of(&head[..read])
        .map_err(|why| anyhow::anyhow!("{} cannot be used: {why}", path.display()))?;
    Ok(Image { path, sum, length, format })
}

/// `qcow2` or `raw`, judged by the first sector (QEMU's docs/interop/qcow2.txt; the signature of a boot sector).
fn format_of(head: &[u8]) -> Result<&'static str, &'static str> {
    let number = |at: usize| -> Option<u64> {
        head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
    };
    if head.starts_with(b"QFI\xfb") {
        let version = head.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        return match (version, number(8), number(72)) {
            (Some(2..=3), Some(backing), _) if backing != 0 => Err("it has a backing file"),
            (Some(3), _, Some(features)) if features & 4 != 0 => Err("it has an external data file"),
            (Some(2..=3), Some(_), _) => Ok("qcow2"),
            _ => Err("its qcow2 header is invalid"),
        };
    }
    // What QEMU would detect as another format, with or without a boot sector, can refer to files of the host. A VMDK
    // may be plain text: comments, blank lines, then `version=`.
    let others: [&[u8]; 10] =
        [b"QFI", b"QED", b"KDMV", b"COWD", b"conectix", b"vhdxfile", b"LUKS", b"Withou", b"<<<", b"OOOO"];
    let begins_blank = head.first().is_some_and(u8::is_ascii_whitespace);
    let text = begins_blank || head.starts_with(b"#") || head.starts_with(b"version");
    if text || others.iter().any(|magic| head.starts_with(magic)) {
        return Err("it is an image of another format, which could refer to other files");
    }
    if head.get(510..512) == Some(&[0x55, 0xaa]) {
        return Ok("raw");
    }
    Err("it is neither a qcow2 nor a raw disk image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_found_by_name() {
        let (a, b) = (Sum::of(b"a"), Sum::of(b"b"));
        let text = format!(
            "{a}  debian-12-generic-amd64.qcow2\n{b} *debian-12-generic-amd64.raw\nnonsense  x.qcow2\n"
        );
        assert_eq!(sum_of(&text, "debian-12-generic-amd64.qcow2"), Some(a));
        assert_eq!(sum_of(&text, "debian-12-generic-amd64.raw"), Some(b));
        for missing in ["debian-12-generic", "x.qcow2", ""] {
            assert_eq!(sum_of(&text, missing), None, "{missing}");
        }
    }

    #[test]
    fn h29_an_image_that_would_open_other_files_is_refused() {
        let qcow2 = |backing: u64, features: u64| {
            let mut head = vec![0; 512];
            head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
            head[8..16].copy_from_slice(&backing.to_be_bytes());
            head[72..80].copy_from_slice(&features.to_be_bytes());
            head
        };
        assert_eq!(format_of(&qcow2(0, 0)), Ok("qcow2"));
        assert!(format_of(&qcow2(512, 0)).unwrap_err().contains("backing file"));
        assert!(format_of(&qcow2(0, 4)).unwrap_err().contains("external data file"));
        let mut raw = vec![0; 512];
        assert!(format_of(&raw).is_err());
        raw[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(format_of(&raw), Ok("raw"));
        for other in
            [&b"KDMV"[..], b"# Disk DescriptorFile\n", b"version=1\n", b"\n#x\nversion=1\n", b"QED\0"]
        {
            let mut disk = raw.clone();
            disk[..other.len()].copy_from_slice(other);
            assert!(format_of(&disk).is_err(), "{other:?}");
        }
        assert!(format_of(b"<html>").is_err() && format_of(b"QFI\xfb").is_err());
    }
}

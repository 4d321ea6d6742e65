//! The only place that fetches files from the web: one request, whose bytes are passed on as they arrive (hazards H23,
//! H31).
//!
//! The request runs in its own thread, so that a silent server cannot keep the caller from noticing a signal; an
//! abandoned thread ends by its own time limits or with the process.

use super::clock::Deadline;
use super::doors::Doors;
use super::interrupt::Interrupt;
use super::proxmox_api::certificates;
use crate::value::web_address::WebAddress;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use ureq::http::{HeaderMap, header};
use ureq::tls::{RootCerts, TlsConfig};

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The connection could not be made, or broke.
    #[error("cannot fetch {address}: {why}")]
    Broken {
        /// What was requested.
        address: String,
        /// The reason as the library words it.
        why: String,
    },
    /// The answer ended before its announced length.
    #[error("the download of {address} broke off after {got} of {length} bytes")]
    CutOff {
        /// What was requested.
        address: String,
        /// Bytes of this answer that arrived.
        got: u64,
        /// Bytes that the answer announced.
        length: u64,
    },
    /// No byte arrived for too long.
    #[error("{address} sent nothing for {} s", silence.as_secs())]
    Silent {
        /// What was requested.
        address: String,
        /// How long nothing arrived.
        silence: Duration,
    },
    /// The time limit for the whole download has passed.
    #[error("the download of {address} did not finish in time")]
    TooSlow {
        /// What was requested.
        address: String,
    },
    /// Any status but 200 and 206.
    #[error("cannot download {address}: HTTP {status}")]
    Status {
        /// What was requested.
        address: String,
        /// The HTTP status; 416 means that the file has nothing from the requested byte on.
        status: u16,
    },
    /// A redirect that is not followed.
    #[error("{address} was redirected: {why}")]
    Redirect {
        /// What was requested.
        address: String,
        /// Why it is not followed.
        why: String,
    },
    /// The received data could not be stored.
    #[error(transparent)]
    Kept(#[from] io::Error),
    /// A signal arrived.
    #[error(transparent)]
    Interrupted(#[from] super::interrupt::Interrupted),
}

/// The beginning of a server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Offset of the first byte in the file; 0 if the server sends the whole file regardless of the request.
    pub from: u64,
    /// Size of the whole file, if the server states it.
    pub total: Option<u64>,
}

/// Time limits of a request.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longest time without a byte.
    pub silence: Duration,
    /// For the whole request.
    pub deadline: Deadline,
}

enum News {
    Begun(Begun, Option<u64>),
    Bytes(Vec<u8>),
    End,
    Failed(DownloadError),
}

const REDIRECTS: u32 = 8;
const CHUNK: usize = 128 << 10;

/// Fetches `address` from byte `from` on. `begun` is called first, with the offset at which the answer begins; then
/// `bytes` gets each piece. Returns once everything announced has arrived.
pub fn fetch(
    doors: Doors,
    address: &WebAddress,
    from: u64,
    patience: Patience,
    interrupt: &Interrupt,
    mut begun: impl FnMut(Begun) -> io::Result<()>,
    mut bytes: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), DownloadError> {
    let (tell, told) = sync_channel(8);
    let (asked, limit) = (address.clone(), patience);
    std::thread::spawn(move || {
        let end = match download(&asked, from, limit, &tell) {
            Ok(()) => News::End,
            Err(error) => News::Failed(error),
        };
        // If the receiver is gone, nobody needs the result.
        let _ = tell.send(end);
    });
    let name = || address.to_string();
    let mut quiet_until = doors.deadline(patience.silence);
    let (mut got, mut announced) = (0u64, None);
    loop {
        if interrupt.requested() {
            return Err(super::interrupt::Interrupted.into());
        }
        if patience.deadline.passed() {
            return Err(DownloadError::TooSlow { address: name() });
        }
        if quiet_until.passed() {
            return Err(DownloadError::Silent { address: name(), silence: patience.silence });
        }
        match next(&told) {
            None => continue,
            Some(News::Begun(at, length)) => {
                announced = length;
                begun(at)?;
            }
            Some(News::Bytes(piece)) => {
                got += piece.len() as u64;
                bytes(&piece)?;
            }
            Some(News::Failed(DownloadError::Broken { .. }))
                if announced.is_some_and(|length| got < length) =>
            {
                let length = announced.unwrap_or_default();
                return Err(DownloadError::CutOff { address: name(), got, length });
            }
            Some(News::Failed(error)) => return Err(error),
            Some(News::End) => {
                return match announced {
                    Some(length) if got != length => {
                        Err(DownloadError::CutOff { address: name(), got, length })
                    }
                    _ => Ok(()),
                };
            }
        }
        quiet_until = doors.deadline(patience.silence);
    }
}

fn next(told: &Receiver<News>) -> Option<News> {
    match told.recv_timeout(Duration::from_millis(50)) {
        Ok(news) => Some(news),
        Err(RecvTimeoutError::Timeout) => None,
        // The thread always sends its end; if it could not, the missing bytes are noticed.
        Err(RecvTimeoutError::Disconnected) => Some(News::End),
    }
}

fn download(
    address: &WebAddress,
    from: u64,
    patience: Patience,
    tell: &SyncSender<News>,
) -> Result<(), DownloadError> {
    let mut address = address.clone();
    for _ in 0..REDIRECTS {
        let broken = |why: String| DownloadError::Broken { address: address.to_string(), why };
        let answer = request(&address, from, patience).map_err(|error| broken(in_words(&error)))?;
        let headers = answer.headers().clone();
        match answer.status().as_u16() {
            301 | 302 | 303 | 307 | 308 => {
                let why = |why: String| DownloadError::Redirect { address: address.to_string(), why };
                let location = text(&headers, header::LOCATION).ok_or_else(|| why("to nowhere".into()))?;
                address = address.redirected(location).map_err(|refused| why(refused.to_string()))?;
            }
            status @ (200 | 206) => {
                let length = text(&headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
                let begun = match status {
                    206 => text(&headers, header::CONTENT_RANGE)
                        .and_then(content_range)
                        .ok_or_else(|| broken("the server sent an invalid Content-Range".into()))?,
                    _ => Begun { from: 0, total: length },
                };
                if tell.send(News::Begun(begun, length)).is_err() {
                    return Ok(());
                }
                return pass_on(answer, tell).map_err(|error| broken(error.to_string()));
            }
            status => return Err(DownloadError::Status { address: address.to_string(), status }),
        }
    }
    let why = format!("more than {REDIRECTS} times");
    Err(DownloadError::Redirect { address: address.to_string(), why })
}

fn request(
    address: &WebAddress,
    from: u64,
    patience: Patience,
) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates(None))).build();
    // A little longer than the reader's own limit, so that the thread ends after its reader has given up.
    let silence = Some(patience.silence + Duration::from_secs(5));
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("blockhost-build-template/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(silence)
        .timeout_connect(silence)
        .timeout_recv_response(silence)
        .timeout_per_read(silence)
        .timeout_global(Some(patience.deadline.left().max(Duration::from_millis(1))));
    // An http address is this host itself, and no proxy may come in between; over https the host's proxy is used.
    let config = if address.is_secure() { config } else { config.proxy(None) };
    let mut call = config.build().new_agent().get(address.as_str());
    if from > 0 {
        call = call.header(header::RANGE, format!("bytes={from}-"));
    }
    call.call()
}

fn pass_on(answer: ureq::http::Response<ureq::Body>, tell: &SyncSender<News>) -> io::Result<()> {
    let mut reader = answer.into_body().into_reader();
    loop {
        let mut piece = vec![0; CHUNK];
        let read = reader.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        piece.truncate(read);
        if tell.send(News::Bytes(piece)).is_err() {
            return Ok(());
        }
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Parses `bytes 100-199/200`; the total may be `*`.
fn content_range(text: &str) -> Option<Begun> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let from = range.split_once('-')?.0.trim().parse().ok()?;
    Some(Begun { from, total: total.trim().parse().ok() })
}

/// The library's message, with advice where it is about certificates.
fn in_words(error: &ureq::Error) -> String {
    let words = error.to_string();
    if words.contains("UnknownIssuer") || words.contains("no root certificates") {
        return format!("{words}; are the certificates of the package ca-certificates installed?");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 100-199/200"), Some(Begun { from: 100, total: Some(200) }));
        assert_eq!(content_range("bytes 100-199/*"), Some(Begun { from: 100, total: None }));
        for bad in ["", "bytes */200", "items 1-2/3", "bytes 1-2"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}

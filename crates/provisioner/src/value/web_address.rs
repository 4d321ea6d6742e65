//! Where a file is downloaded from: `https://…`, or `http://…` on this host itself (hazard H31).

use super::Refused;
use std::net::IpAddr;

/// An address that may be downloaded from. A download over http must come from loopback: nothing else proves who
/// answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebAddress {
    text: String,
    /// Length in bytes of scheme and authority at the start of `text`.
    origin: usize,
    secure: bool,
}

impl WebAddress {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<WebAddress, Refused> {
        let refused = |why: &str| Refused::new("address", text, why);
        if !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains(['"', '\\', '<', '>', '#']) {
            return Err(refused("it must be plain text without blanks, quotes or '#'"));
        }
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(refused("it must begin with https://")),
        };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = host_of(authority).ok_or_else(|| {
            refused("the host must be a name or an address, with a port at most, without user or password")
        })?;
        if !secure && !is_loopback(host) {
            return Err(refused(
                "only https is safe over a network; http is taken for this machine itself alone",
            ));
        }
        let origin = text.len() - rest.len() + authority.len();
        Ok(WebAddress { text: text.to_owned(), origin, secure })
    }

    /// Returns the address itself.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is an https address.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    fn path(&self) -> &str {
        self.text[self.origin..].split('?').next().unwrap_or_default()
    }

    /// Returns the last part of the path if that is a plain file name.
    pub fn file_name(&self) -> Option<&str> {
        let name = self.path().rsplit_once('/')?.1;
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+'));
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        (plain && first && name.len() <= 128).then_some(name)
    }

    /// Returns another file in the same directory.
    pub fn sibling(&self, name: &str) -> WebAddress {
        let path = self.path();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let text = format!("{}{folder}/{name}", &self.text[..self.origin]);
        WebAddress { text, ..*self }
    }

    /// Returns the target of a `Location` header; never from https to http.
    pub fn redirected(&self, location: &str) -> Result<WebAddress, Refused> {
        let text = if location.contains("://") {
            location.to_owned()
        } else if let Some(authority) = location.strip_prefix("//") {
            format!("{}://{authority}", if self.secure { "https" } else { "http" })
        } else if location.starts_with('/') {
            format!("{}{location}", &self.text[..self.origin])
        } else {
            self.sibling(location).text
        };
        let next = WebAddress::parse(&text)?;
        if self.secure && !next.secure {
            return Err(Refused::new("redirect", &text, "it leads from https to http"));
        }
        Ok(next)
    }
}

impl std::fmt::Display for WebAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for WebAddress {
    type Err = Refused;
    fn from_str(text: &str) -> Result<Self, Refused> {
        WebAddress::parse(text)
    }
}

/// Returns the host of `host[:port]` or `[v6][:port]`.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("1")))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("1")),
        },
    };
    port?.parse::<u16>().ok()?;
    let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':'));
    (!host.is_empty() && plain).then_some(host)
}

/// Whether the host part of an address is this host, so that the connection needs no protection.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h31_http_is_for_loopback_alone() {
        for good in
            ["https://example.org/a", "http://127.0.0.1:80/a", "http://[::1]:80/a", "http://localhost/a"]
        {
            assert_eq!(WebAddress::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "http://example.org/a",
            "http://127.0.0.1.example.org/a",
            "http://localhost@example.org/a",
            "ftp://example.org/a",
            "https://",
            "https://user@example.org/",
            "https://example.org:x/",
            "https://[example.org]/",
            "file:///etc/shadow",
            "https://example.org/a b",
            "https://example.org/\na",
            "-o https://example.org",
            "",
        ] {
            assert!(WebAddress::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn h31_a_redirect_never_leads_to_an_unchecked_host() {
        let from = WebAddress::parse("https://example.org/images/latest/a.qcow2?x=1").unwrap();
        let to = |location: &str| from.redirected(location).map(|address| address.text);
        assert_eq!(to("b.qcow2").unwrap(), "https://example.org/images/latest/b.qcow2");
        assert_eq!(to("/b").unwrap(), "https://example.org/b");
        assert_eq!(to("//mirror.example/b").unwrap(), "https://mirror.example/b");
        assert_eq!(to("https://mirror.example/b").unwrap(), "https://mirror.example/b");
        for bad in ["http://mirror.example/b", "http://127.0.0.1/b", "file:///etc/shadow"] {
            assert!(to(bad).is_err(), "{bad}");
        }
        let local = WebAddress::parse("http://127.0.0.1:8080/a").unwrap();
        assert!(local.redirected("http://example.org/a").is_err());
        assert!(local.redirected("/b").is_ok());
    }

    #[test]
    fn files_of_the_same_folder() {
        let image = WebAddress::parse("https://example.org/cloud/latest/debian.qcow2?mirror=1").unwrap();
        assert_eq!(image.file_name(), Some("debian.qcow2"));
        assert_eq!(image.sibling("SHA512SUMS").as_str(), "https://example.org/cloud/latest/SHA512SUMS");
        for nameless in ["https://example.org", "https://example.org/a/", "https://example.org/.hidden"] {
            assert_eq!(WebAddress::parse(nameless).unwrap().file_name(), None, "{nameless}");
        }
    }
}

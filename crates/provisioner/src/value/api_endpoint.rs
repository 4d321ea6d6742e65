//! The address of a node's API.

/// The address of a node's own API, for programs on that node.
pub const LOCAL_ENDPOINT: &str = "https://127.0.0.1:8006";

/// Returns the host part of `https://host[:port]`; `None` for anything else.
pub fn host_of(endpoint: &str) -> Option<&str> {
    let authority = endpoint.strip_prefix("https://")?.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => authority.split(':').next()?,
    };
    (!host.is_empty() && !authority.contains('@')).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h31_only_loopback_goes_unchecked() {
        assert_eq!(host_of("https://127.0.0.1:8006"), Some("127.0.0.1"));
        assert_eq!(host_of("https://[::1]:8006/"), Some("::1"));
        assert_eq!(host_of("https://localhost"), Some("localhost"));
        for bad in ["http://127.0.0.1:8006", "127.0.0.1", "https://", "https://127.0.0.1@evil.example"] {
            assert_eq!(host_of(bad), None, "{bad}");
        }
    }
}

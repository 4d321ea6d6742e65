//! The MAC address of a network card.

use std::net::Ipv6Addr;

/// Six bytes, written `bc:24:11:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Parses six pairs of hexadecimal digits separated by colons; `None` for anything else.
    pub fn parse(text: &str) -> Option<Mac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Mac(bytes))
    }

    /// Returns the link-local address that a guest derives from it (EUI-64, RFC 4291 appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_six_bytes_and_has_a_link_local_address() {
        let mac = Mac::parse("BC:24:11:00:0a:01").unwrap();
        assert_eq!(mac.to_string(), "bc:24:11:00:0a:01");
        assert_eq!(mac.link_local().to_string(), "fe80::be24:11ff:fe00:a01");
        for wrong in
            ["", "BC:24:11:00:00", "BC:24:11:00:00:01:02", "BC:24:11:00:00:1", "+C:24:11:00:00:01", "vmbr0"]
        {
            assert_eq!(Mac::parse(wrong), None, "{wrong}");
        }
    }
}

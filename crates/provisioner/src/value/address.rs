//! Addresses of VMs: the IPv4 pool of db.yaml and the broker's IPv6 prefix.

use super::Refused;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An IPv4 network, for example `192.168.122.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Network {
    address: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Network {
    /// Parses `A.B.C.D/N`; host bits are cleared.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let refuse = || Refused::new("IPv4 network", text, "it must look like 192.168.122.0/24");
        let (address, prefix) = text.trim().split_once('/').ok_or_else(refuse)?;
        let prefix: u8 = prefix
            .parse()
            .ok()
            .filter(|n| (8..=30).contains(n))
            .ok_or_else(|| Refused::new("IPv4 network", text, "its prefix must be between 8 and 30"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| refuse())?;
        let network = Ipv4Network { address, prefix };
        Ok(Ipv4Network { address: Ipv4Addr::from(u32::from(address) & network.mask()), prefix })
    }

    fn mask(&self) -> u32 {
        u32::MAX << (32 - self.prefix)
    }

    /// The prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Returns the network address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Returns the broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !self.mask())
    }

    /// Whether `address` is in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.address)
    }

    /// Parses one end of a pool: a full address, or the last octet ("200", 200) of this network.
    pub fn pool_end(&self, text: &str) -> Result<Ipv4Addr, Refused> {
        let address = match text.trim().parse::<u8>() {
            Ok(octet) => {
                let [a, b, c, _] = self.address.octets();
                Ipv4Addr::new(a, b, c, octet)
            }
            Err(_) => text.trim().parse().map_err(|_| {
                Refused::new("pool address", text, "it must be a last octet (200) or a full IPv4 address")
            })?,
        };
        if !self.contains(address) {
            return Err(Refused::new("pool address", text, format!("it is outside the network {self}")));
        }
        Ok(address)
    }
}

impl std::fmt::Display for Ipv4Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The addresses to assign to VMs (`ip_pool`), both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Pool {
    /// The network; guests get its prefix length.
    pub network: Ipv4Network,
    /// The first address.
    pub start: Ipv4Addr,
    /// The last address.
    pub end: Ipv4Addr,
    /// The guests' gateway, which is never assigned.
    pub gateway: Ipv4Addr,
}

impl Ipv4Pool {
    /// Whether `address` could be a guest's: it is in the network, and is not the gateway, network or broadcast
    /// address.
    pub fn usable(&self, address: Ipv4Addr) -> bool {
        self.network.contains(address)
            && address != self.gateway
            && address != self.network.address()
            && address != self.network.broadcast()
    }

    /// Returns all addresses that may be assigned, in ascending order.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        (u32::from(self.start)..=u32::from(self.end)).map(Ipv4Addr::from).filter(|a| self.usable(*a))
    }
}

impl std::fmt::Display for Ipv4Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{} of {}", self.start, self.end, self.network)
    }
}

/// An IPv6 prefix, for example `2a11:6c7:f04:276::/120`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Prefix {
    address: Ipv6Addr,
    length: u8,
}

impl Ipv6Prefix {
    /// Parses `ADDRESS/N`, where N is 16 to 126; host bits are cleared.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let refuse =
            || Refused::new("IPv6 prefix", text, "it must look like 2001:db8::/120, length 16 to 126");
        let (address, length) = text.trim().split_once('/').ok_or_else(refuse)?;
        let length: u8 = length.parse().ok().filter(|n| (16..=126).contains(n)).ok_or_else(refuse)?;
        let address: Ipv6Addr = address.parse().map_err(|_| refuse())?;
        let mask = u128::MAX << (128 - length);
        Ok(Ipv6Prefix { address: Ipv6Addr::from(u128::from(address) & mask), length })
    }

    /// The prefix length.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Returns the address at `offset` in the prefix; `None` beyond its end.
    pub fn at(&self, offset: u64) -> Option<Ipv6Addr> {
        let size = 1u128 << (128 - self.length);
        (u128::from(offset) < size).then(|| Ipv6Addr::from(u128::from(self.address) + u128::from(offset)))
    }

    /// Whether `address` is in the prefix.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        let mask = u128::MAX << (128 - self.length);
        u128::from(address) & mask == u128::from(self.address)
    }
}

impl std::fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The IPv6 addresses to assign: `prefix + start` to `prefix + end`; the gateway is `prefix + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Pool {
    /// The broker's (or the operator's) prefix.
    pub prefix: Ipv6Prefix,
    /// First offset (default 2).
    pub start: u64,
    /// Last offset (default 254).
    pub end: u64,
    /// The guests' gateway, which is never assigned.
    pub gateway: Ipv6Addr,
}

impl Ipv6Pool {
    /// Returns all addresses that may be assigned, in ascending order.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> + '_ {
        (self.start..=self.end).map_while(|offset| self.prefix.at(offset)).filter(|a| *a != self.gateway)
    }
}

impl std::fmt::Display for Ipv6Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} +{} to +{}", self.prefix, self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_crosses_octets_and_skips_what_is_no_guest_address() {
        let network = Ipv4Network::parse("10.0.0.0/23").unwrap();
        let pool = Ipv4Pool {
            network,
            start: network.pool_end("10.0.0.254").unwrap(),
            end: network.pool_end("10.0.1.255").unwrap(),
            gateway: "10.0.1.1".parse().unwrap(),
        };
        let all: Vec<_> = pool.addresses().collect();
        assert_eq!(all.first().unwrap().to_string(), "10.0.0.254");
        assert_eq!(all[1].to_string(), "10.0.0.255");
        assert_eq!(all.last().unwrap().to_string(), "10.0.1.254");
        assert!(!all.contains(&"10.0.1.1".parse().unwrap()));
        assert_eq!(network.pool_end("200").unwrap().to_string(), "10.0.0.200");
        for bad in ["256", "abc", "10.0.2.1", "", "-1"] {
            assert!(network.pool_end(bad).is_err(), "{bad}");
        }
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/31", "x/24", "10.0.0/24"] {
            assert!(Ipv4Network::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_ipv6_pool_ends_with_its_prefix() {
        let prefix = Ipv6Prefix::parse("2a11:6c7:f04:276::/125").unwrap();
        let pool = Ipv6Pool { prefix, start: 2, end: 254, gateway: prefix.at(1).unwrap() };
        let all: Vec<_> = pool.addresses().map(|a| a.to_string()).collect();
        assert_eq!(
            all,
            [
                "2a11:6c7:f04:276::2",
                "2a11:6c7:f04:276::3",
                "2a11:6c7:f04:276::4",
                "2a11:6c7:f04:276::5",
                "2a11:6c7:f04:276::6",
                "2a11:6c7:f04:276::7"
            ]
        );
        assert!(Ipv6Prefix::parse("2a11::/128").is_err() && Ipv6Prefix::parse("2a11::").is_err());
    }
}

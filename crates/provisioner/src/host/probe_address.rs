//! Makes the kernel ask the local network who has an address, by sending one empty datagram to the discard port. The
//! neighbour table then shows the result ([`crate::tool::ip::neighbour`]). No privilege is needed, and none could make
//! it quicker.

use rustix::net::{SendFlags, sendto};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The discard service (RFC 863), which drops the datagram.
const DISCARD: u16 = 9;

/// Sends the datagram, but never through a router: an address on none of the host's links is an error.
pub fn knock(address: IpAddr) -> io::Result<()> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    let to = SocketAddr::new(address, DISCARD);
    sendto(&socket, b"", SendFlags::DONTROUTE | SendFlags::DONTWAIT, &to)?;
    Ok(())
}

//! Probes the network directly: whether a neighbour answers, whether a port accepts connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::time::Duration;

/// Makes the kernel resolve a neighbour's hardware address by sending one empty datagram to the discard port. `scope`
/// is the interface index, which link-local IPv6 addresses need. The neighbour table then shows whether it answered.
pub fn nudge(address: IpAddr, scope: u32) {
    let (any, to) = match address {
        IpAddr::V4(ip) => (SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SocketAddr::from((ip, 9))),
        IpAddr::V6(ip) => {
            let scope = if ip.is_unicast_link_local() { scope } else { 0 };
            (SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), SocketAddrV6::new(ip, 9, 0, scope).into())
        }
    };
    if let Ok(socket) = UdpSocket::bind(any) {
        // An error is a result too: it shows in the neighbour table.
        let _ = socket.send_to(&[], to);
    }
}

/// Whether the port accepts connections.
pub fn listens(address: IpAddr, port: u16, limit: Duration) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((address, port)), limit).is_ok()
}

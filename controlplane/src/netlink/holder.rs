//! Names the process that holds a UDP port, for "port 500 is held by charon (pid 712)".

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name, as `ps` shows it.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The process that has a UDP socket which keeps us from binding this address and port, in the network namespace of the
/// calling thread. `None` if there is none, or if we may not look into the processes of others (which takes
/// CAP_SYS_PTRACE: call it before privileges are given up).
#[must_use]
pub fn udp_port_holder(address: IpAddr, port: u16) -> Option<Holder> {
    let inodes: Vec<u64> = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| table.lines().skip(1).filter_map(socket).collect::<Vec<_>>())
        .filter(|socket| socket.port == port && collide(socket.address, address))
        .map(|socket| socket.inode)
        .collect();
    let targets: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if targets.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|target| targets.iter().any(|wanted| target == Path::new(wanted)));
        let name = || {
            fs::read_to_string(entry.path().join("comm"))
                .map_or_else(|_| "?".into(), |name| name.trim().into())
        };
        holds.then(|| Holder { name: name(), pid })
    })
}

struct Socket {
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// A line of /proc/net/udp or udp6: `sl local_address rem_address st queues tr tm->when retrnsmt uid timeout inode ...`.
fn socket(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    Some(Socket {
        address: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: fields.nth(7)?.parse().ok()?,
    })
}

/// The kernel prints the address's words of 32 bits in the machine's byte order.
fn parse_address(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = digits.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match digits.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0u8; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Does a socket bound to `held` keep another from binding `wanted`? One bound to all addresses does.
fn collide(held: IpAddr, wanted: IpAddr) -> bool {
    // A socket of IPv6 bound to all addresses takes IPv4 too, unless it was told not to, which /proc does not show.
    held == wanted
        || held.is_unspecified()
        || wanted.is_unspecified() && held.is_ipv4() == wanted.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_port_of_ours_is_ours() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let holder = udp_port_holder(Ipv4Addr::UNSPECIFIED.into(), port).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(
            holder
                .to_string()
                .contains(&format!("(pid {})", holder.pid))
        );
        assert_eq!(
            udp_port_holder(Ipv4Addr::new(127, 0, 0, 2).into(), port),
            None
        );
    }

    #[test]
    fn lines_of_the_kernel() {
        let line = "  612: 0100007F:01F4 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 20415 2 0000 0";
        let socket = socket(line).unwrap();
        assert_eq!(
            (socket.address, socket.port, socket.inode),
            (Ipv4Addr::LOCALHOST.into(), 500, 20415)
        );
        assert_eq!(
            parse_address("0000000000000000FFFF00000100007F"),
            Some(Ipv4Addr::LOCALHOST.into())
        );
        assert!(super::socket("garbage").is_none() && parse_address("xx").is_none());
    }
}

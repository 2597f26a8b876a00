//! What a port must know of its interface, read from /sys.

use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use std::{fs, io, path::PathBuf};

/// The facts of one network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name, as configured.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The largest IP packet that it carries, in bytes.
    pub mtu: u32,
    /// How many receive queues it has; each needs a worker of its own.
    pub receive_queues: u32,
}

/// Why an interface's facts are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// There is none of this name.
    #[error("there is no interface `{name}` in this network namespace")]
    Missing {
        /// The name as configured.
        name: String,
    },
    /// /sys shows the interfaces of another network namespace.
    #[error(
        "/sys does not show interface `{name}` of this network namespace; mount a sysfs that belongs to it \
         (`ip netns exec` does so)"
    )]
    ForeignSysfs {
        /// The name as configured.
        name: String,
    },
    /// A file of /sys is not as expected.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// What is wrong with it.
        error: io::Error,
    },
}

impl Interface {
    /// Looks an interface up by name.
    ///
    /// # Errors
    ///
    /// When there is none, or /sys cannot tell.
    pub fn find(name: &str) -> Result<Self, InterfaceError> {
        let owned = || name.to_owned();
        let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None);
        let index = any
            .and_then(|any| netdevice::name_to_index(&any, name))
            .map_err(|_| InterfaceError::Missing { name: owned() })?;
        let directory = PathBuf::from("/sys/class/net").join(name);
        let read = |file: &str| {
            let path = directory.join(file);
            fs::read_to_string(&path).map_err(|error| unreadable(&path, error))
        };
        let number = |file: &str| {
            let text = read(file)?;
            let invalid = |_| unreadable(&directory.join(file), io::ErrorKind::InvalidData.into());
            text.trim().parse::<u32>().map_err(invalid)
        };
        if !matches!(number("ifindex"), Ok(shown) if shown == index) {
            return Err(InterfaceError::ForeignSysfs { name: owned() });
        }
        let address = read("address")?;
        let mac = parse_mac(address.trim()).ok_or_else(|| {
            unreadable(
                &directory.join("address"),
                io::ErrorKind::InvalidData.into(),
            )
        })?;
        let queues = directory.join("queues");
        let receive_queues = fs::read_dir(&queues)
            .map_err(|error| unreadable(&queues, error))?
            .flatten()
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"rx-"))
            .count();
        Ok(Self {
            name: owned(),
            index,
            mac,
            mtu: number("mtu")?,
            receive_queues: receive_queues as u32,
        })
    }
}

fn unreadable(path: &std::path::Path, error: io::Error) -> InterfaceError {
    InterfaceError::Unreadable {
        path: path.display().to_string(),
        error,
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found() {
        let loopback = Interface::find("lo").unwrap();
        assert_eq!(loopback.mac, [0; 6]);
        assert!(loopback.index > 0 && loopback.receive_queues > 0);
    }

    #[test]
    fn a_missing_interface_is_named() {
        let error = Interface::find("nosuch0").unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no interface `nosuch0` in this network namespace"
        );
    }

    #[test]
    fn macs_are_six_bytes() {
        assert_eq!(parse_mac("02:00:00:00:00:ff"), Some([2, 0, 0, 0, 0, 255]));
        assert_eq!(parse_mac("02:00:00:00:00"), None);
        assert_eq!(parse_mac("02:00:00:00:00:ff:01"), None);
    }
}

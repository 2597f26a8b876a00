//! What the tests of the configuration share.

use std::{collections::HashMap, io, path::Path};

use esplanade_config::{Config, FileContext, Files, Problem, SecretFile};

const GATEWAY: &[u8] = include_bytes!("../certificates/gw.pem");
const GATEWAY_KEY: &[u8] = include_bytes!("../certificates/gw.key");
const OTHER_KEY: &[u8] = include_bytes!("../certificates/other.key");
const AUTHORITY: &[u8] = include_bytes!("../certificates/ca.pem");

/// Secrets by path, with their mode.
#[derive(Default)]
pub struct Secrets(pub HashMap<&'static str, (&'static [u8], u32)>);

impl Files for Secrets {
    fn read_secret(&self, path: &Path) -> io::Result<SecretFile> {
        let (bytes, mode) = path
            .to_str()
            .and_then(|path| self.0.get(path))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(SecretFile {
            bytes: bytes.to_vec().into(),
            mode: *mode,
        })
    }
}

/// Parses a text in `/etc/esplanade/gw.yaml`, beside which lie a good key, one that others can read, and a short one; and the
/// certificate of gw-a.example.org, its key, also as one that others can read, another key, and the authority of both ends.
pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    let secrets = Secrets(HashMap::from([
        (
            "/etc/esplanade/good.psk",
            (b"correct horse battery staple\n".as_slice(), 0o600),
        ),
        (
            "/etc/esplanade/open.psk",
            (b"correct horse battery staple\n".as_slice(), 0o644),
        ),
        ("/etc/esplanade/short.psk", (b"hunter2\n".as_slice(), 0o600)),
        ("/etc/esplanade/gw.pem", (GATEWAY, 0o644)),
        ("/etc/esplanade/gw.key", (GATEWAY_KEY, 0o600)),
        ("/etc/esplanade/open.key", (GATEWAY_KEY, 0o644)),
        ("/etc/esplanade/other.key", (OTHER_KEY, 0o600)),
        ("/etc/esplanade/ca.pem", (AUTHORITY, 0o644)),
        (
            "/etc/esplanade/good.users",
            (
                b"# staff\ncarol@example.org: pass word: 1\n\ndave : x\n".as_slice(),
                0o600,
            ),
        ),
        (
            "/etc/esplanade/open.users",
            (b"carol: x\n".as_slice(), 0o644),
        ),
        (
            "/etc/esplanade/twice.users",
            (b"carol: hunter2\ncarol: hunter3\n".as_slice(), 0o600),
        ),
        (
            "/etc/esplanade/bare.users",
            (b"dave: x\nhunter2\n".as_slice(), 0o600),
        ),
        (
            "/etc/esplanade/carol.password",
            (b"pass word\n".as_slice(), 0o600),
        ),
        (
            "/etc/esplanade/long.password",
            (b"hunter2\nhunter3\n".as_slice(), 0o600),
        ),
    ]));
    let context = FileContext {
        path: "/etc/esplanade/gw.yaml".into(),
        mode: Some(0o644),
        files: &secrets,
    };
    Config::parse(text, &context)
}

/// The least that a configuration needs.
pub fn minimal() -> String {
    "\
dataplane:
  ports:
    lan: { interface: eth1, role: inside }
    wan: { interface: eth2, role: outside }
tunnels:
  site-b:
    local: { address: 192.0.2.1 }
    remote: { address: 192.0.2.2 }
    authentication: { psk: { file: good.psk } }
    children:
      lan:
        local: [10.1.0.0/16]
        remote: [10.2.0.0/16]
"
    .to_owned()
}

//! strongSwan with its ESP in userland (kernel-libipsec), in two versions: Debian 12's own 5.9.8,
//! whose ESP always travels in UDP 4500, and the 6.x of a later Debian, installed into a directory
//! and run with chroot, which sends plain ESP.

use std::fmt::{self, Write as _};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::testbed::{Finished, Namespace, Process, find_program, run, target_dir, wait_for};

/// The name of the one connection.
pub const CONNECTION: &str = "peer";
/// The name of its one child.
pub const CHILD: &str = "net";

/// An exchange has three retransmissions in which to succeed.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(20);

/// The Debian that has it.
const SUITE: &str = "forky";
/// Debian packages of the 6.x directory.
const PACKAGES: &str = "charon-systemd,strongswan-swanctl,libcharon-extra-plugins,\
libstrongswan-standard-plugins,libstrongswan-extra-plugins";

/// Which strongSwan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 5.9.8 as installed on this machine; its ESP is always in UDP 4500.
    Five,
    /// 6.x of the Debian that follows 13, whose OpenSSL has ML-KEM, in a directory of its own; it sends plain ESP.
    Six,
}

impl Version {
    /// Says why this version cannot run here, or `None` when it can.
    pub fn unavailable(self) -> Option<String> {
        let tools: &[&str] = match self {
            Version::Five => &["charon-systemd", "swanctl"],
            Version::Six => &["chroot", "mount"],
        };
        for tool in tools {
            if find_program(tool).is_none() {
                return Some(format!("the program {tool} is not installed"));
            }
        }
        if !Path::new("/dev/net/tun").exists() {
            return Some("strongSwan's own ESP needs /dev/net/tun".to_owned());
        }
        match self {
            Version::Five => None,
            Version::Six => directory_of_six().err().map(|error| format!("{error:#}")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::Five => "strongSwan 5.9",
            Version::Six => "strongSwan 6",
        })
    }
}

/// How both ends of a connection prove who they are.
#[derive(Debug, Clone)]
pub enum Proof {
    /// By this pre-shared key.
    Key(String),
    /// By certificates; ours is the one of this name among the [`Credentials`].
    Certificate(String),
    /// We by EAP-MSCHAPv2, the peer by a certificate; we ask for an address of its pool.
    Eap(User),
    /// We by EAP-TLS with the certificate of this name, the peer by a certificate; we ask for an address of its pool.
    Tls(String),
    /// We by the certificate of this name, the peer by EAP-MSCHAPv2; it gets an address of this pool.
    Pool(String, User, String),
}

/// Who proves by EAP who it is.
#[derive(Debug, Clone)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
}

/// Files of certificates in PEM, each with the name that its file gets.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Certificates that charon may prove itself by.
    pub certificates: Vec<(String, String)>,
    /// Their private keys.
    pub keys: Vec<(String, String)>,
    /// Authorities, roots and intermediate ones.
    pub authorities: Vec<(String, String)>,
    /// Lists of what is revoked.
    pub lists: Vec<(String, String)>,
}

/// One connection with one child.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Its name: [`CONNECTION`] where it is the only one.
    pub name: String,
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address.
    pub remote: IpAddr,
    /// Our identity.
    pub local_id: String,
    /// The peer's identity.
    pub remote_id: String,
    /// How both prove it.
    pub proof: Proof,
    /// The prefix behind us.
    pub local_prefix: String,
    /// The prefix behind the peer.
    pub remote_prefix: String,
    /// IKE proposals in strongSwan's notation.
    pub ike: String,
    /// ESP proposals in strongSwan's notation; with a key exchange, child rekeys have PFS.
    pub esp: String,
}

impl Connection {
    /// The connection as the other side would write it.
    pub fn mirrored(&self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            local_id: self.remote_id.clone(),
            remote_id: self.local_id.clone(),
            local_prefix: self.remote_prefix.clone(),
            remote_prefix: self.local_prefix.clone(),
            ..self.clone()
        }
    }
}

/// A child SA as `swanctl --list-sas` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSa {
    /// The SPI that the peer sends to it.
    pub inbound: u32,
    /// The SPI that it sends to the peer.
    pub outbound: u32,
    /// Whether the SA is in use, not about to be deleted.
    pub installed: bool,
}

/// A running charon with its configuration loaded. It ends when this value is dropped.
#[derive(Debug)]
pub struct StrongSwan<'a> {
    namespace: &'a Namespace,
    root: Option<PathBuf>,
    dir: PathBuf,
    log: PathBuf,
    process: Process,
}

impl<'a> StrongSwan<'a> {
    /// Starts charon in a namespace and loads the connection; it answers, but initiates nothing.
    pub fn start(
        version: Version,
        namespace: &'a Namespace,
        connection: &Connection,
        log_dir: &Path,
    ) -> Result<Self> {
        let connections = std::slice::from_ref(connection);
        let none = Credentials::default();
        Self::start_all(version, namespace, connections, &none, log_dir)
    }

    /// As [`StrongSwan::start`], with several connections and the certificates that they prove themselves by.
    pub fn start_all(
        version: Version,
        namespace: &'a Namespace,
        connections: &[Connection],
        credentials: &Credentials,
        log_dir: &Path,
    ) -> Result<Self> {
        let root = match version {
            Version::Five => None,
            Version::Six => Some(directory_of_six()?),
        };
        // Short, because a Unix socket's path holds 107 bytes; the same inside and outside.
        let dir = PathBuf::from("/run").join(namespace.name());
        let outside = within(root.as_deref(), &dir);
        write_configuration(&outside, &dir, version, connections)?;
        write_credentials(&outside.join("swanctl"), credentials)?;

        let mut command = enter(namespace, root.as_deref(), "charon-systemd")?;
        command.env("STRONGSWAN_CONF", dir.join("strongswan.conf"));
        let mut process = namespace.spawn("charon", log_dir, command)?;
        let socket = outside.join("charon.vici");
        wait_for("charon to open its socket", Duration::from_secs(20), || {
            if let Some(status) = process.ended() {
                bail!("charon ended with {status}:\n{}", process.last_words());
            }
            Ok(socket.exists().then_some(()))
        })?;
        let log = log_dir.join(format!("{}-charon-detail.log", namespace.role()));
        let swan = Self {
            namespace,
            root,
            dir,
            log,
            process,
        };
        swan.swanctl(&["--load-all"])?.ok()?;
        Ok(swan)
    }

    /// The process id of charon.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What `swanctl --version` calls the daemon.
    pub fn version(&self) -> Result<String> {
        let said = self.swanctl(&["--version", "--daemon"])?.ok()?;
        Ok(said
            .stdout
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned())
    }

    /// Negotiates the IKE SA and the child, and waits until both stand.
    pub fn initiate(&self) -> Result<()> {
        self.initiate_of(CONNECTION)
    }

    /// The same of this connection.
    pub fn initiate_of(&self, name: &str) -> Result<()> {
        self.swanctl(&[
            "--initiate",
            "--ike",
            name,
            "--child",
            CHILD,
            "--timeout",
            "15",
        ])?
        .ok()?;
        Ok(())
    }

    /// Deletes the IKE SA with its children.
    pub fn terminate(&self) -> Result<()> {
        self.terminate_of(CONNECTION)
    }

    /// The same of this connection.
    pub fn terminate_of(&self, name: &str) -> Result<()> {
        self.swanctl(&["--terminate", "--ike", name, "--timeout", "10"])?
            .ok()?;
        Ok(())
    }

    /// Starts the rekeying of the child SA.
    pub fn rekey_child(&self) -> Result<()> {
        self.rekey(CONNECTION, "--child")
    }

    /// Starts the rekeying of the IKE SA.
    pub fn rekey_ike(&self) -> Result<()> {
        self.rekey(CONNECTION, "--ike")
    }

    /// Starts the rekeying of a connection's `--ike` or `--child`.
    pub fn rekey(&self, name: &str, layer: &str) -> Result<()> {
        let target = if layer == "--ike" { name } else { CHILD };
        self.swanctl(&["--rekey", layer, target])?.ok()?;
        Ok(())
    }

    /// What `swanctl --list-sas` prints.
    pub fn list(&self) -> Result<String> {
        Ok(self.swanctl(&["--list-sas"])?.ok()?.stdout)
    }

    /// The child SAs that are installed or on their way out.
    pub fn children(&self) -> Result<Vec<ChildSa>> {
        Ok(parse_children(&self.list()?))
    }

    /// The SPI pair of each IKE SA, as printed.
    pub fn ike_sas(&self) -> Result<Vec<String>> {
        self.ike_sas_of(CONNECTION)
    }

    /// The same of this connection.
    pub fn ike_sas_of(&self, name: &str) -> Result<Vec<String>> {
        // "peer: #1, ESTABLISHED, IKEv2, 0123456789abcdef_i* fedcba9876543210_r"
        let prefix = format!("{name}: #");
        let list = self.list()?;
        Ok(list
            .lines()
            .filter(|line| line.starts_with(&prefix) && line.contains("ESTABLISHED"))
            .filter_map(|line| line.split("IKEv2, ").nth(1))
            .map(str::to_owned)
            .collect())
    }

    /// Charon's own log so far, kept beside the other logs.
    pub fn log(&self) -> String {
        let text = fs::read(within(self.root.as_deref(), &self.dir).join("charon.log"));
        text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn swanctl(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = enter(self.namespace, self.root.as_deref(), "swanctl")?;
        command
            .env("STRONGSWAN_CONF", self.dir.join("strongswan.conf"))
            .env("SWANCTL_DIR", self.dir.join("swanctl"))
            .args(arguments)
            .arg("--uri")
            .arg(format!("unix://{}/charon.vici", self.dir.display()));
        run(&mut command, EXCHANGE_LIMIT)
    }
}

impl Drop for StrongSwan<'_> {
    fn drop(&mut self) {
        let _ = self.process.terminate(Duration::from_secs(5));
        let outside = within(self.root.as_deref(), &self.dir);
        let _ = fs::copy(outside.join("charon.log"), &self.log);
        let _ = fs::remove_dir_all(outside);
    }
}

/// The programs of the installed version under a path of our own. Debian's AppArmor profiles go by path and
/// know only the system's one charon, with its configuration in /etc.
fn copied(program: &str) -> Result<PathBuf> {
    let installed = find_program(program).with_context(|| format!("{program} is not installed"))?;
    let directory = target_dir()?.join("peers").join("installed");
    fs::create_dir_all(&directory)?;
    let copy = directory.join(program);
    let is_current = match (fs::metadata(&copy), fs::metadata(&installed)) {
        (Ok(copy), Ok(installed)) => copy.len() == installed.len(),
        _ => false,
    };
    if !is_current {
        // Another test may be running the old copy: put the new one beside it and rename.
        let fresh = directory.join(format!("{program}.{}", std::process::id()));
        fs::copy(&installed, &fresh)?;
        fs::rename(&fresh, &copy)?;
    }
    Ok(copy)
}

/// A command in a namespace and, for a version in a directory, in that directory with the
/// machine's /dev and /proc; the mounts are the command's own and go with it.
fn enter(namespace: &Namespace, root: Option<&Path>, program: &str) -> Result<Command> {
    let Some(root) = root else {
        return Ok(namespace.command(copied(program)?));
    };
    let mut command = namespace.command("sh");
    command
        .args(["-ec", "mount --rbind /dev \"$0/dev\"; mount --rbind /proc \"$0/proc\"; exec chroot \"$0\" \"$@\""])
        .arg(root)
        .arg(format!("/usr/sbin/{program}"));
    Ok(command)
}

/// A path inside a root directory, as it is called outside.
fn within(root: Option<&Path>, path: &Path) -> PathBuf {
    match (root, path.strip_prefix("/")) {
        (Some(root), Ok(relative)) => root.join(relative),
        _ => path.to_owned(),
    }
}

fn write_configuration(
    outside: &Path,
    dir: &Path,
    version: Version,
    connections: &[Connection],
) -> Result<()> {
    let _ = fs::remove_dir_all(outside);
    fs::create_dir_all(outside.join("swanctl"))
        .with_context(|| format!("cannot make {}", outside.display()))?;
    fs::write(
        outside.join("strongswan.conf"),
        daemon_configuration(dir, version)?,
    )?;
    let secrets = outside.join("swanctl/swanctl.conf");
    fs::write(&secrets, connection_configuration(connections)?)?;
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn write_credentials(directory: &Path, credentials: &Credentials) -> Result<()> {
    for (place, files) in [
        ("x509", &credentials.certificates),
        ("x509ca", &credentials.authorities),
        ("x509crl", &credentials.lists),
        ("private", &credentials.keys),
    ] {
        let place = directory.join(place);
        fs::create_dir_all(&place)?;
        for (name, pem) in files {
            fs::write(place.join(format!("{name}.pem")), pem)?;
        }
    }
    Ok(())
}

fn daemon_configuration(dir: &Path, version: Version) -> Result<String> {
    // kernel-libipsec comes before kernel-netlink: the first to offer ESP gives it.
    let plugins = "random nonce x509 revocation constraints pubkey pkcs1 pkcs8 pem openssl aes sha1 \
                   sha2 hmac kdf gcm curve25519 kernel-libipsec kernel-netlink socket-default vici \
                   updown";
    // The 6.x has no package of EAP's methods.
    let (esp, eap) = match version {
        Version::Five => ("allow_peer_ts = yes", "eap-identity eap-mschapv2 eap-tls"),
        Version::Six => ("allow_peer_ts = yes\n      raw_esp = yes", ""),
    };
    let mut text = String::new();
    write!(
        text,
        "charon-systemd {{
  load_modular = no
  load = {plugins} {eap}
  retransmit_timeout = 1.0
  retransmit_tries = 3
  plugins {{
    vici {{
      socket = unix://{dir}/charon.vici
    }}
    kernel-libipsec {{
      {esp}
    }}
  }}
  filelog {{
    main {{
      path = {dir}/charon.log
      time_format = %T
      flush_line = yes
      default = 1
      ike = 2
      chd = 2
      knl = 2
    }}
  }}
}}
",
        dir = dir.display(),
    )?;
    Ok(text)
}

fn connection_configuration(connections: &[Connection]) -> Result<String> {
    let mut text = "connections {\n".to_owned();
    for connection in connections {
        write_connection(&mut text, connection)?;
    }
    text.push_str("}\npools {\n");
    for connection in connections {
        if let Proof::Pool(_, _, pool) = &connection.proof {
            writeln!(
                text,
                "  pool-{} {{\n    addrs = {pool}\n  }}",
                connection.name
            )?;
        }
    }
    text.push_str("}\nsecrets {\n");
    for connection in connections {
        if let Proof::Eap(user) | Proof::Pool(_, user, _) = &connection.proof {
            let User { name, password } = user;
            let of = &connection.name;
            write!(
                text,
                "  eap-{of} {{\n    id = {name}\n    secret = \"{password}\"\n  }}\n"
            )?;
        }
        if let Proof::Key(secret) = &connection.proof {
            let Connection {
                name,
                local_id,
                remote_id,
                ..
            } = connection;
            write!(
                text,
                "  ike-{name} {{
    id-1 = {local_id}
    id-2 = {remote_id}
    secret = \"{secret}\"
  }}
"
            )?;
        }
    }
    text.push_str("}\n");
    Ok(text)
}

fn write_connection(text: &mut String, connection: &Connection) -> Result<()> {
    let Connection {
        name,
        local,
        remote,
        local_id,
        remote_id,
        proof,
        local_prefix,
        remote_prefix,
        ike,
        esp,
    } = connection;
    let certs = |name: &str| format!("pubkey\n      certs = {name}.pem");
    let eap = |name: &str| format!("eap-mschapv2\n      eap_id = {name}");
    let (method, theirs, addresses) = match proof {
        Proof::Key(_) => ("psk".to_owned(), "psk".to_owned(), String::new()),
        Proof::Certificate(name) => (certs(name), "pubkey".to_owned(), String::new()),
        Proof::Eap(user) => {
            let vips = "\n    vips = 0.0.0.0".to_owned();
            (eap(&user.name), "pubkey".to_owned(), vips)
        }
        Proof::Tls(certificate) => {
            let method = format!("eap-tls\n      certs = {certificate}.pem");
            let vips = "\n    vips = 0.0.0.0".to_owned();
            (method, "pubkey".to_owned(), vips)
        }
        Proof::Pool(certificate, ..) => {
            let pools = format!("\n    pools = pool-{name}");
            (certs(certificate), eap("%any"), pools)
        }
    };
    write!(
        text,
        "  {name} {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {ike}
    rekey_time = 0
    dpd_delay = 0{addresses}
    local {{
      auth = {method}
      id = {local_id}
    }}
    remote {{
      auth = {theirs}
      id = {remote_id}
    }}
    children {{
      {CHILD} {{
        local_ts = {local_prefix}
        remote_ts = {remote_prefix}
        esp_proposals = {esp}
        rekey_time = 0
        life_time = 1h
      }}
    }}
  }}
"
    )?;
    Ok(())
}

/// Reads the children out of `swanctl --list-sas`:
/// ```text
///   net: #1, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-256
///     in  c0ffee01,    252 bytes,     3 packets,     0s ago
///     out c0ffee02,    252 bytes,     3 packets,     0s ago
/// ```
fn parse_children(list: &str) -> Vec<ChildSa> {
    let mut children = Vec::new();
    let mut current: Option<ChildSa> = None;
    for line in list.lines().map(str::trim) {
        if line.starts_with(&format!("{CHILD}: #")) {
            let installed = line.contains(", INSTALLED,");
            current = Some(ChildSa {
                inbound: 0,
                outbound: 0,
                installed,
            });
        } else if let Some(child) = &mut current {
            if let Some(spi) = spi_after(line, "in ") {
                child.inbound = spi;
            } else if let Some(spi) = spi_after(line, "out ") {
                child.outbound = spi;
                children.extend(current.take());
            }
        }
    }
    children
}

fn spi_after(line: &str, direction: &str) -> Option<u32> {
    let digits = line
        .strip_prefix(direction)?
        .trim_start()
        .split([',', ' '])
        .next()?;
    u32::from_str_radix(digits, 16).ok()
}

/// Where the 6.x lies; makes it when it is not there yet, which takes half a minute.
fn directory_of_six() -> Result<PathBuf> {
    let root = target_dir()?.join("peers").join(SUITE);
    let complete = root.join("complete");
    if complete.is_file() {
        return Ok(root);
    }
    if find_program("mmdebstrap").is_none() {
        bail!("the program mmdebstrap is not installed");
    }
    let (mirror, keyring) = debian_mirror()?;
    // A directory that an interrupted run left half made is of no use. What may still be mounted
    // in it is the machine's own /dev: stay out of other file systems.
    let mut remove = Command::new("rm");
    remove
        .args(["--recursive", "--force", "--one-file-system"])
        .arg(&root);
    run(&mut remove, Duration::from_secs(60))?.ok()?;
    fs::create_dir_all(&root)?;
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--mode=root", "--variant=apt"])
        .arg(format!("--include={PACKAGES}"));
    if let Some(keyring) = keyring {
        command.arg(format!("--keyring={keyring}"));
    }
    // A mirror may stand still for weeks; that Debian has signed what it offers, is checked all the same.
    command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    command.arg(SUITE).arg(&root).arg(mirror);
    run(&mut command, Duration::from_secs(300))?
        .ok()
        .with_context(|| format!("cannot install strongSwan 6 from Debian {SUITE}"))?;
    fs::write(complete, "")?;
    Ok(root)
}

/// The Debian mirror that this machine's apt uses, and the keyring that vouches for it.
fn debian_mirror() -> Result<(String, Option<String>)> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(LABEL)",
        "Identifier: Packages",
    ]);
    let targets = run(&mut command, Duration::from_secs(30))?.ok()?.stdout;
    let mirror = targets
        .lines()
        .find_map(|line| line.strip_suffix(" Debian"))
        .context("apt knows no Debian mirror on this machine; run apt-get update once")?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let keyring = Path::new(keyring).is_file().then(|| keyring.to_owned());
    Ok((mirror.trim_end_matches('/').to_owned(), keyring))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_read_from_the_list() {
        let list = "\
peer: #1, ESTABLISHED, IKEv2, 1d7c9d1f0d7ab7a1_i* 6b8d2b1f0d7ab7a2_r
  local  'b' @ 192.0.2.2[4500]
  net: #1, reqid 1, REKEYED, TUNNEL-in-UDP, ESP:AES_GCM_16-256
    installed 1s ago
    in  0000ab01,      0 bytes,     0 packets
    out c0ffee02,      0 bytes,     0 packets
  net: #2, reqid 1, INSTALLED, TUNNEL-in-UDP, ESP:AES_GCM_16-256/CURVE_25519
    in  c0ffee03,    252 bytes,     3 packets,     0s ago
    out c0ffee04,    252 bytes,     3 packets,     0s ago
    local  10.2.0.0/16
";
        assert_eq!(
            parse_children(list),
            [
                ChildSa {
                    inbound: 0xab01,
                    outbound: 0xc0ff_ee02,
                    installed: false
                },
                ChildSa {
                    inbound: 0xc0ff_ee03,
                    outbound: 0xc0ff_ee04,
                    installed: true
                },
            ]
        );
    }
}

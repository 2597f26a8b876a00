//! A Linux kernel with its own IPsec, in a virtual machine that stands in gateway B's place: its interfaces are bridged to
//! those of the namespace, strongSwan in it negotiates, and the kernel does ESP and AH.
//!
//! The machine is emulated, since nested virtualisation is had in few places; it is up in some three seconds.

mod image;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::testbed::{INSIDE, Namespace, OUTSIDE, Process, find_program, wait_for};
use image::{Image, PLUGINS};

/// Emulated, the kernel takes some seconds to boot; a busy machine may take several times as long.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How long strongSwan in it may take to start.
const CHARON_LIMIT: Duration = Duration::from_secs(20);
/// How long a script in the guest may take.
const SCRIPT_LIMIT: Duration = Duration::from_secs(30);

/// The two ends of the link by which the guest is commanded.
const COMMANDER: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);
const COMMANDED: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 2);
/// Whoever connects to this port of it speaks to a shell.
const SHELL_PORT: u16 = 1;

/// What has to be loaded in any case; algorithms come when they are asked for.
const LOADED: &str = "virtio_pci virtio_net xfrm_user esp4 esp6 ah4 ah6";

/// A running guest. It ends when this value is dropped.
#[derive(Debug)]
pub struct Guest<'a> {
    namespace: &'a Namespace,
    directory: PathBuf,
    process: Process,
}

impl<'a> Guest<'a> {
    /// Says why no guest can run here, or `None` when one can.
    pub fn unavailable() -> Option<String> {
        if !cfg!(target_arch = "x86_64") {
            return Some("the guest is an x86-64".to_owned());
        }
        for tool in [
            "qemu-system-x86_64",
            "busybox",
            "depmod",
            "dpkg-deb",
            "apt-get",
            "charon-systemd",
            "swanctl",
        ] {
            if find_program(tool).is_none() {
                return Some(format!("the program {tool} is not installed"));
            }
        }
        (!Path::new("/dev/net/tun").exists())
            .then(|| "the guest's interfaces need /dev/net/tun".to_owned())
    }

    /// Boots a kernel behind the two interfaces of a gateway's namespace, which loses its addresses. The guest has none
    /// yet on its own [`INSIDE`] and [`OUTSIDE`], which are up.
    pub fn boot(namespace: &'a Namespace, log_dir: &Path) -> Result<Self> {
        let directory = PathBuf::from("/run").join(namespace.name()).join("guest");
        fs::create_dir_all(&directory)?;
        let image = Image::make(&directory, &init())?;
        plug_in(namespace)?;
        let mut command = namespace.command("qemu-system-x86_64");
        command
            .args([
                "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "384",
            ])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .arg("-serial")
            .arg(format!(
                "file:{}",
                log_dir.join("guest-console.log").display()
            ))
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initramfs)
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable",
            ]);
        for (number, tap) in TAPS.iter().enumerate() {
            // Without its header, what comes from the guest has its checksums, as on a wire.
            command
                .arg("-netdev")
                .arg(format!(
                    "tap,id={tap},ifname={tap},script=no,downscript=no,vhost=off,vnet_hdr=off"
                ))
                .arg("-device")
                .arg(format!(
                    "virtio-net-pci,netdev={tap},mac=52:54:00:00:00:0{number},romfile="
                ));
        }
        let process = namespace.spawn("guest", log_dir, command)?;
        let mut guest = Self {
            namespace,
            directory,
            process,
        };
        wait_for("the guest to boot", BOOT_LIMIT, || {
            if let Some(status) = guest.process.ended() {
                bail!("qemu ended with {status}:\n{}", guest.process.last_words());
            }
            Ok(guest.run("true").is_ok().then_some(()))
        })?;
        Ok(guest)
    }

    /// The version of its kernel.
    pub fn release(&self) -> Result<String> {
        Ok(self.run("uname -r")?.trim().to_owned())
    }

    /// Runs a script in the guest's shell; an error quotes what it said.
    pub fn run(&self, script: &str) -> Result<String> {
        let mut stream = self.namespace.enter(|| {
            let address = SocketAddr::from((COMMANDED, SHELL_PORT));
            Ok(TcpStream::connect_timeout(
                &address,
                Duration::from_secs(1),
            )?)
        })?;
        stream.set_read_timeout(Some(SCRIPT_LIMIT))?;
        // The shell ends where its input does.
        write!(
            stream,
            "( set -e\n{script}\n) 2>&1 </dev/null\necho \" ended with $?\"\n"
        )?;
        stream.shutdown(Shutdown::Write)?;
        let mut said = String::new();
        stream
            .read_to_string(&mut said)
            .with_context(|| format!("in the guest: {script}"))?;
        match said.rsplit_once(" ended with ") {
            Some((said, "0\n")) => Ok(said.to_owned()),
            _ => bail!("in the guest: {script}\nit said: {said}"),
        }
    }

    /// Writes a file in the guest, into a directory that is there.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        self.run(&format!("cat >{path} <<'END'\n{text}\nEND"))?;
        Ok(())
    }

    /// Starts strongSwan in the guest with these `connections` and `secrets`, as swanctl.conf has them. It answers, but
    /// initiates nothing.
    pub fn start_charon(&self, configuration: &str) -> Result<()> {
        let daemon = format!(
            "charon-systemd {{
  load_modular = no
  load = {plugins}
  install_routes = no
  retransmit_timeout = 1.0
  retransmit_tries = 3
  plugins {{
    vici {{
      socket = unix:///run/charon.vici
    }}
  }}
  filelog {{
    main {{
      path = /run/charon.log
      time_format = %T
      flush_line = yes
      default = 1
      knl = 2
    }}
  }}
}}
swanctl {{
  load = random openssl
}}
",
            plugins = PLUGINS.join(" "),
        );
        self.write("/etc/strongswan.conf", &daemon)?;
        self.write("/etc/swanctl/swanctl.conf", configuration)?;
        self.run("setsid charon-systemd >/run/charon.out 2>&1 &")?;
        let started = wait_for("charon in the guest", CHARON_LIMIT, || {
            Ok(self.run("test -S /run/charon.vici").is_ok().then_some(()))
        });
        started.with_context(|| self.charon_log())?;
        self.swanctl("--load-all")?;
        Ok(())
    }

    /// Runs swanctl in the guest.
    pub fn swanctl(&self, arguments: &str) -> Result<String> {
        self.run(&format!(
            "swanctl {arguments} --uri unix:///run/charon.vici"
        ))
    }

    /// charon's own log so far.
    pub fn charon_log(&self) -> String {
        self.run("cat /run/charon.out /run/charon.log")
            .unwrap_or_else(|error| format!("{error:#}"))
    }

    /// What `/proc/net/xfrm_stat` counts as an error, as far as it has moved.
    pub fn errors(&self) -> Result<Vec<String>> {
        let said = self.run("cat /proc/net/xfrm_stat")?;
        let moved = |line: &&str| line.split_whitespace().nth(1) != Some("0");
        Ok(said.lines().filter(moved).map(str::to_owned).collect())
    }

    /// The states that the kernel has, each as `ip -s xfrm state` shows it.
    pub fn states(&self) -> Result<Vec<String>> {
        let said = self.run("ip -s xfrm state")?;
        let mut states: Vec<String> = Vec::new();
        for line in said.lines() {
            if line.starts_with("src ") {
                states.push(String::new());
            }
            if let Some(state) = states.last_mut() {
                let _ = writeln!(state, "{line}");
            }
        }
        Ok(states)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let log = self.process.log().with_file_name("guest-charon.log");
        let _ = fs::write(log, self.charon_log());
        // Nothing in it outlives it.
        let _ = self.process.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The link to command it by, and what stands for the gateway's two interfaces.
const TAPS: [&str; 3] = ["tap-shell", "tap-inside", "tap-outside"];

/// Joins each interface of the gateway to one of the guest.
fn plug_in(namespace: &Namespace) -> Result<()> {
    let [shell, inside, outside] = TAPS;
    namespace.ip(&format!(
        "tuntap add dev {shell} mode tap\n\
         addr add {COMMANDER}/30 dev {shell}\n\
         link set {shell} up\n"
    ))?;
    for (tap, interface) in [(inside, INSIDE), (outside, OUTSIDE)] {
        namespace.ip(&format!(
            "addr flush dev {interface}\n\
             link add br-{interface} type bridge mcast_snooping 0\n\
             tuntap add dev {tap} mode tap\n\
             link set {tap} master br-{interface}\n\
             link set {interface} master br-{interface}\n\
             link set {tap} up\n\
             link set br-{interface} up\n"
        ))?;
    }
    Ok(())
}

/// The first program of the guest: it loads what is needed, names the interfaces in the order of their slots, and listens.
fn init() -> String {
    format!(
        "#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo /sbin/modprobe >/proc/sys/kernel/modprobe
for module in {LOADED}; do modprobe $module; done
ip link set eth0 name shell
ip link set eth2 name new2
ip link set eth1 name {INSIDE}
ip link set new2 name {OUTSIDE}
for interface in lo shell {INSIDE} {OUTSIDE}; do ip link set $interface up; done
ip addr add {COMMANDED}/30 dev shell
export PATH STRONGSWAN_CONF=/etc/strongswan.conf SWANCTL_DIR=/etc/swanctl
exec nc -ll -p {SHELL_PORT} -e /bin/dash
"
    )
}

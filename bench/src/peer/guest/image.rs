//! What the guest boots: the kernel of Debian's package, unpacked and not installed, and an initramfs of busybox, iproute2,
//! ping, strongSwan and the kernel's modules for IPsec.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::testbed::{find_program, run, target_dir};

/// Depends on the newest kernel for virtual machines, a small one.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// Where of the kernel's modules those lie that the guest needs.
const MODULES: &[&str] = &[
    "arch/x86/crypto",
    "crypto",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/virtio",
    "lib",
    "net/core",
    "net/ipv4",
    "net/ipv6",
    "net/xfrm",
];
/// What runs in the guest, with the libraries that it needs. Its shell is dash, since that of busybox prefers its own `ip`.
const PROGRAMS: &[&str] = &["dash", "busybox", "ip", "ping", "charon-systemd", "swanctl"];
/// strongSwan's plugins; kernel-netlink is the one that has the kernel do ESP and AH.
pub(super) const PLUGINS: &[&str] = &[
    "random",
    "nonce",
    "openssl",
    "aes",
    "sha1",
    "sha2",
    "hmac",
    "kdf",
    "gcm",
    "curve25519",
    "kernel-netlink",
    "socket-default",
    "vici",
];
/// What the C library asks for when a thread is cancelled.
const UNWINDER: &str = "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1";
const PLUGIN_DIRECTORY: &str = "/usr/lib/ipsec/plugins";

const UNPACK_LIMIT: Duration = Duration::from_secs(60);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(180);

/// A kernel and the file system that it starts with.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
}

impl Image {
    /// Makes the initramfs in this directory; the kernel is fetched when it is not there yet.
    pub(super) fn make(directory: &Path, init: &str) -> Result<Self> {
        let unpacked = kernel()?;
        let release = only_entry(&unpacked.join("lib/modules"))?;
        let root = directory.join("root");
        skeleton(&root)?;
        for program in PROGRAMS {
            let file =
                find_program(program).with_context(|| format!("{program} is not installed"))?;
            copy_with_libraries(&file, &root)?;
        }
        for plugin in PLUGINS {
            let file = format!("{PLUGIN_DIRECTORY}/libstrongswan-{plugin}.so");
            copy_with_libraries(Path::new(&file), &root)?;
        }
        copy_with_libraries(Path::new(UNWINDER), &root)?;
        let modules = format!("lib/modules/{release}");
        fs::create_dir_all(root.join("usr/lib/modules"))?;
        shell(
            "cp -r \"$1\" \"$2\"",
            &[&unpacked.join(&modules), &root.join(&modules)],
        )?;
        shell("depmod -b \"$1\" \"$2\"", &[&root, Path::new(&release)])?;
        let first = root.join("init");
        fs::write(&first, init)?;
        fs::set_permissions(&first, fs::Permissions::from_mode(0o755))?;
        let initramfs = directory.join("initramfs");
        let pack = "cd \"$1\" && find . | busybox cpio --quiet -o -H newc >\"$2\"";
        shell(pack, &[&root, &initramfs])?;
        let kernel = unpacked.join(format!("boot/vmlinuz-{release}"));
        Ok(Self { kernel, initramfs })
    }
}

/// The directories of a Debian, with those merged that it merges.
fn skeleton(root: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(root);
    for directory in [
        "dev",
        "etc/swanctl",
        "proc",
        "run",
        "sys",
        "tmp",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    for merged in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{merged}"), root.join(merged))?;
    }
    symlink("/bin/dash", root.join("bin/sh"))?;
    symlink("/bin/busybox", root.join("sbin/modprobe"))?;
    Ok(())
}

/// Copies a program or library, and what it is linked with, to the same places under a root.
fn copy_with_libraries(file: &Path, root: &Path) -> Result<()> {
    let mut files = BTreeSet::from([file.to_owned()]);
    let said = run(Command::new("ldd").arg(file), UNPACK_LIMIT)?;
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0000)", or the loader's path alone; a static program has none.
    let words = said.stdout.split_whitespace();
    files.extend(
        words
            .filter(|word| word.starts_with('/'))
            .map(PathBuf::from),
    );
    for file in files {
        let copy = root.join(file.strip_prefix("/").context("a full path")?);
        if copy.exists() {
            continue;
        }
        fs::create_dir_all(copy.parent().context("a directory")?)?;
        fs::copy(&file, &copy).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

/// Where the kernel's package lies unpacked; fetches it when it is not there yet.
fn kernel() -> Result<PathBuf> {
    let directory = target_dir()?.join("peers").join("linux");
    let complete = directory.join("complete");
    if complete.is_file() {
        return Ok(directory);
    }
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    let package = download(&directory).or_else(|_| {
        // What the lists of packages name may have been superseded.
        run(
            Command::new("apt-get").args(["-qq", "update"]),
            DOWNLOAD_LIMIT,
        )?
        .ok()?;
        download(&directory)
    })?;
    let unpack = "cd \"$1\" && dpkg-deb --fsys-tarfile \"$2\" | \
                  tar -x --wildcards './boot/vmlinuz-*' './lib/modules/*/modules.*' \
                  $(printf './lib/modules/*/kernel/%s ' $3)";
    let wanted = MODULES.join(" ");
    shell(unpack, &[&directory, &package, Path::new(&wanted)])?;
    fs::remove_file(package)?;
    fs::write(complete, "")?;
    Ok(directory)
}

/// Fetches the package of the newest kernel that this machine's apt knows.
fn download(directory: &Path) -> Result<PathBuf> {
    let said = run(
        Command::new("apt-cache").args(["depends", "--important", KERNEL_PACKAGE]),
        UNPACK_LIMIT,
    )?
    .ok()?;
    let package = said
        .stdout
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .with_context(|| format!("apt knows no {KERNEL_PACKAGE}"))?
        .to_owned();
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "download", &package])
        .current_dir(directory);
    run(&mut command, DOWNLOAD_LIMIT)?
        .ok()
        .with_context(|| format!("cannot download {package}"))?;
    Ok(directory.join(only_entry(directory)?))
}

/// The name of the one thing in a directory.
fn only_entry(directory: &Path) -> Result<String> {
    let entries: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .collect::<std::io::Result<_>>()?;
    let [entry] = entries.as_slice() else {
        bail!(
            "{} has {} entries, not one",
            directory.display(),
            entries.len()
        );
    };
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn shell(script: &str, arguments: &[&Path]) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-ec", script, "sh"]).args(arguments);
    run(&mut command, UNPACK_LIMIT)?.ok()?;
    Ok(())
}

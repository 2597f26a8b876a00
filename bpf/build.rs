//! Compiles the XDP program with clang; the object goes into the crate.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "src/steer.bpf.c";
const HEADERS: [&str; 2] = ["src/maps.bpf.h", "src/packet.bpf.h"];

fn main() {
    for file in HEADERS.iter().chain([&SOURCE]) {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");
    if let Err(sentence) = compile() {
        eprintln!("{sentence}");
        println!("cargo::error={sentence}");
        std::process::exit(1);
    }
}

fn compile() -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let output = PathBuf::from(env::var("OUT_DIR").map_err(|e| e.to_string())?).join("steer.bpf.o");
    // Set by libbpf-sys, which brings bpf_helpers.h with it.
    let libbpf = env::var("DEP_BPF_INCLUDE").map_err(|e| format!("libbpf's headers: {e}"))?;
    let mut command = Command::new(&clang);
    command
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-Wno-unused-parameter", "-I", &libbpf])
        .args(multiarch().iter().flat_map(|dir| ["-idirafter", dir]))
        .args(["-c", SOURCE, "-o"])
        .arg(&output);
    // Absolute build paths have no business in the object.
    if let Ok(here) = env::current_dir() {
        command.arg(format!("-fdebug-prefix-map={}=.", here.display()));
    }
    let result = command.output().map_err(|error| {
        format!(
            "The XDP program needs clang to be built, and `{clang}` could not be run ({error}). \
             Install it (Debian: apt install clang), or name it in the variable CLANG."
        )
    })?;
    let messages = String::from_utf8_lossy(&result.stderr);
    if !result.status.success() {
        eprintln!("{messages}");
        let hint = if messages.contains("asm/types.h") || messages.contains("linux/") {
            " The kernel's headers for programs seem to be missing (Debian: apt install linux-libc-dev libc6-dev)."
        } else {
            ""
        };
        return Err(format!("{clang} could not compile {SOURCE}.{hint}"));
    }
    Ok(())
}

/// Where Debian keeps `asm/types.h`, which clang does not look for when it compiles for BPF.
fn multiarch() -> Option<String> {
    let arch = match env::var("CARGO_CFG_TARGET_ARCH").ok()?.as_str() {
        "x86" => "i386".to_owned(),
        other => other.to_owned(),
    };
    let dir = format!("/usr/include/{arch}-linux-gnu");
    PathBuf::from(&dir).is_dir().then_some(dir)
}

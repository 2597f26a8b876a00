//! The dataplane starts again to get huge pages, once, also where the C library forgets that it asked: with rights from its
//! file, the tunables are taken out of its environment. Needs root; without it the test is skipped, loudly.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const NOBODY: u32 = 65_534;

#[test]
fn a_program_with_rights_from_its_file_starts_again_only_once() {
    let name = format!("esplanade-dataplane-{}", std::process::id());
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::copy(env!("CARGO_BIN_EXE_esplanade-dataplane"), &program).unwrap();
    // Run by root, a file of somebody else's that sets the user makes the C library as careful as capabilities of the file.
    let owned = chown(&program, Some(NOBODY), None);
    if owned.is_err() {
        fs::remove_file(&program).unwrap();
        println!("SKIPPED: giving a file away needs root");
        return;
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let mut process = Command::new(&program)
        .arg("--help")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        let status = process.try_wait().unwrap();
        if status.is_some() || began.elapsed() > Duration::from_secs(10) {
            break status;
        }
        sleep(Duration::from_millis(5));
    };
    let _ = process.kill();
    let _ = process.wait();
    fs::remove_file(&program).unwrap();
    assert!(status.expect("it ends").success());
}

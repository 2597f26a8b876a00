//! `esplanade check`, as an operator runs it.

#![forbid(unsafe_code)]

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

const CONFIG: &str = "dataplane:
  workers: [0]
  ports:
    lan: { interface: eth1, role: inside }
    wan: { interface: eth2, role: outside }
tunnels:
  site-b:
    local: { address: 192.0.2.1, identity: a.example.org }
    remote: { address: 192.0.2.2, identity: b.example.org }
    authentication: { psk: { secret: qwx } }
    children:
      lan: { local: [10.1.0.0/16], remote: [10.2.0.0/16] }
";

#[test]
fn a_valid_file_that_somebody_should_look_at_is_valid_and_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("gateway.yaml");
    fs::write(&config, CONFIG).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let check = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esplanade"));
        let output = command.arg("check").arg(&config).args(arguments).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    let (said, warned) = check(&[]);
    assert!(said.ends_with("gateway.yaml is valid\n"), "{said}");
    assert!(
        warned.starts_with("warning: the pre-shared key has only 3 bytes"),
        "{warned}"
    );
    let (json, nothing) = check(&["--json"]);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["valid"], true);
    assert_eq!(value["problems"][0]["severity"], "warning");
    assert_eq!(nothing, "");
    // The excerpt shows the line without the key.
    assert!(
        !warned.contains("qwx") && !json.contains("qwx"),
        "{warned}{json}"
    );
}

//! What is tried against a kernel's IPsec: tunnels with their children, written down for our gateway and for strongSwan.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use esplanade_bench::testbed::{INSIDE, OUTSIDE};

const IKE: &str = "aes256gcm16-sha384-x25519";
const STRONGSWAN_IKE: &str = "aes256gcm16-prfsha384-x25519";
pub const SECRET: &str = "a key for the kernel";
pub const TAP: &str = "esp0";

/// How packets are protected.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// As both call it.
    pub name: &'static str,
    /// AH and not ESP.
    pub ah: bool,
    /// Extended sequence numbers.
    pub esn: bool,
    /// What the kernel calls the algorithm.
    pub kernel: &'static str,
}

const fn esp(name: &'static str, kernel: &'static str, esn: bool) -> Suite {
    Suite {
        name,
        ah: false,
        esn,
        kernel,
    }
}

const fn ah(name: &'static str, kernel: &'static str, esn: bool) -> Suite {
    Suite {
        name,
        ah: true,
        esn,
        kernel,
    }
}

/// Every kind of algorithm; each sequence number with at least one of a kind. The first six pass a NAT and are few enough
/// to be repeated.
pub const SUITES: [Suite; 15] = [
    esp("aes256gcm16", "rfc4106(gcm(aes))", true),
    esp("aes128gcm16", "rfc4106(gcm(aes))", false),
    esp("chacha20poly1305", "rfc7539esp(chacha20,poly1305)", true),
    esp("aes128-sha256", "hmac(sha256)", false),
    esp("aes256-sha512", "hmac(sha512)", true),
    esp("aes128gmac", "rfc4543(gcm(aes))", true),
    esp("aes192gcm16", "rfc4106(gcm(aes))", true),
    esp("aes256gmac", "rfc4543(gcm(aes))", false),
    esp("aes256-sha384", "hmac(sha384)", true),
    esp("aes128-sha1", "hmac(sha1)", false),
    esp("aes256ccm16", "rfc4309(ccm(aes))", true),
    esp("null-sha256", "ecb(cipher_null)", true),
    ah("sha256", "hmac(sha256)", false),
    ah("sha384", "hmac(sha384)", true),
    ah("sha512", "hmac(sha512)", true),
];

/// A pair of SAs.
#[derive(Debug, Clone)]
pub struct Child {
    /// Its name, at both ends and unique over all tunnels.
    pub name: String,
    pub suite: Suite,
    pub transport: bool,
    /// Selectors: our side's and the guest's.
    pub selectors: (Vec<String>, Vec<String>),
    /// Further lines of ours and of strongSwan's.
    pub lines: (Vec<String>, Vec<String>),
    /// In tunnel mode, the addresses of host B that are its own.
    pub hosts: Vec<IpAddr>,
}

/// An IKE SA with its children.
#[derive(Debug, Clone)]
pub struct Tunnel {
    pub name: String,
    /// The outer addresses: ours and the guest's.
    pub outer: (IpAddr, IpAddr),
    /// Whether there is said to be a NAT.
    pub encapsulated: bool,
    /// Who initiates it.
    pub ours_to_start: bool,
    pub children: Vec<Child>,
}

impl Tunnel {
    /// Whether it is for what the gateways themselves say to each other.
    pub fn is_between(&self) -> bool {
        self.children.iter().any(|child| child.transport)
    }
}

pub fn inner_v6(network: u8, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, network.into(), 0, 0, host)
}

/// A child in tunnel mode for the inner networks of this number, of both families.
pub fn networks(number: u8, suite: Suite) -> Child {
    Child {
        name: format!("n{number}"),
        suite,
        transport: false,
        selectors: (
            vec!["10.1.0.0/16".to_owned(), "2001:db8:1::/64".to_owned()],
            vec![
                format!("10.2.{number}.0/24"),
                format!("{}/80", inner_v6(number, 0)),
            ],
        ),
        lines: (Vec::new(), Vec::new()),
        hosts: vec![
            Ipv4Addr::new(10, 2, number, 2).into(),
            inner_v6(number, 2).into(),
        ],
    }
}

/// The outer address of this number: 1 is our gateway's, all others are the guest's.
pub fn outer(six: bool, number: u8) -> IpAddr {
    if six {
        Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, number.into()).into()
    } else {
        Ipv4Addr::new(192, 0, 2, number).into()
    }
}

/// A tunnel to the outer address of this number, with children of these suites.
pub fn tunnel(number: u8, six: bool, suites: &[Suite]) -> Tunnel {
    let first = number.saturating_mul(20);
    Tunnel {
        name: format!("t{number}"),
        outer: (outer(six, 1), outer(six, number)),
        encapsulated: false,
        ours_to_start: number.is_multiple_of(2),
        children: (first..)
            .zip(suites)
            .map(|(number, suite)| networks(number, *suite))
            .collect(),
    }
}

/// A tunnel for what the gateways themselves say to each other.
pub fn between(number: u8, six: bool, suite: Suite) -> Tunnel {
    let outer = (outer(six, 1), outer(six, number));
    let length = if six { 128 } else { 32 };
    Tunnel {
        name: format!("t{number}"),
        outer,
        encapsulated: false,
        ours_to_start: number.is_multiple_of(2),
        children: vec![Child {
            name: format!("own{number}"),
            suite,
            transport: true,
            selectors: (
                vec![format!("{}/{length}", outer.0)],
                vec![format!("{}/{length}", outer.1)],
            ),
            lines: (Vec::new(), Vec::new()),
            hosts: Vec::new(),
        }],
    }
}

/// What our gateway runs.
pub fn yaml(tunnels: &[Tunnel]) -> String {
    let mut text = format!(
        "dataplane:
  workers: [1]
  polling: adaptive
  tap: {TAP}
  ports:
    lan: {{ interface: {INSIDE}, role: inside }}
    wan: {{ interface: {OUTSIDE}, role: outside }}
tunnels:
"
    );
    for tunnel in tunnels {
        let _ = write!(
            text,
            "  {name}:
    local: {{ address: \"{}\", identity: gw-a.example.org }}
    remote: {{ address: \"{}\", identity: {name}.example.org }}
    authentication: {{ psk: {{ file: psk }} }}
    ike: {{ proposals: [{IKE}] }}
    start: wait
    children:
",
            tunnel.outer.0,
            tunnel.outer.1,
            name = tunnel.name,
        );
        for child in &tunnel.children {
            let _ = write!(
                text,
                "      {}:
        local: {:?}
        remote: {:?}
        protocol: {}
        mode: {}
        proposals: [{}]
        esn: {}
",
                child.name,
                child.selectors.0,
                child.selectors.1,
                if child.suite.ah { "ah" } else { "esp" },
                if child.transport {
                    "transport"
                } else {
                    "tunnel"
                },
                child.suite.name,
                if child.suite.esn { "require" } else { "off" },
            );
            for line in &child.lines.0 {
                let _ = writeln!(text, "        {line}");
            }
        }
    }
    text
}

/// What strongSwan in the guest runs.
pub fn swanctl(tunnels: &[Tunnel]) -> String {
    let mut text = "connections {\n".to_owned();
    for tunnel in tunnels {
        let _ = write!(
            text,
            "  {name} {{
    version = 2
    local_addrs = {}
    remote_addrs = {}
    proposals = {STRONGSWAN_IKE}
    encap = {}
    rekey_time = 0
    dpd_delay = 0
    local {{
      auth = psk
      id = {name}.example.org
    }}
    remote {{
      auth = psk
      id = gw-a.example.org
    }}
    children {{
",
            tunnel.outer.1,
            tunnel.outer.0,
            if tunnel.encapsulated { "yes" } else { "no" },
            name = tunnel.name,
        );
        for child in &tunnel.children {
            let Suite { name, ah, esn, .. } = child.suite;
            let _ = write!(
                text,
                "      {} {{
        local_ts = {}
        remote_ts = {}
        mode = {}
        {} = {name}-{}
        replay_window = 128
        rekey_time = 1h
",
                child.name,
                child.selectors.1.join(","),
                child.selectors.0.join(","),
                if child.transport {
                    "transport"
                } else {
                    "tunnel"
                },
                if ah { "ah_proposals" } else { "esp_proposals" },
                if esn { "esn" } else { "noesn" },
            );
            for line in &child.lines.1 {
                let _ = writeln!(text, "        {line}");
            }
            text.push_str("      }\n");
        }
        text.push_str("    }\n  }\n");
    }
    let _ = write!(
        text,
        "}}
secrets {{
  ike {{
    secret = \"{SECRET}\"
  }}
}}
"
    );
    text
}

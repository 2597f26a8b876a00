//! Which keys a configuration may have, what they mean and what they default to: one table that the reader checks a
//! file against, that suggestions come from, and that the JSON schema is made of.

/// The keys of one section.
pub(crate) struct Section {
    /// What it is, in a message: "a port".
    pub what: &'static str,
    /// Its keys.
    pub fields: &'static [Field],
}

/// One key.
pub(crate) struct Field {
    pub key: &'static str,
    pub kind: Kind,
    pub required: bool,
    /// The default in the operator's words; empty if there is none.
    pub default: &'static str,
    pub doc: &'static str,
    /// What others call it: strongSwan, libreswan, or our own users by habit.
    pub known_as: &'static [&'static str],
}

/// What a key's value looks like.
pub(crate) enum Kind {
    /// One of these words.
    Word(&'static [&'static str]),
    /// Words of a shape, shown by an example.
    Text(&'static str),
    /// A whole number.
    Number(u64, u64),
    /// `on` or `off`.
    Switch,
    /// One or several texts.
    Texts(&'static str),
    /// A section.
    Section(&'static Section),
    /// Sections that the operator names.
    Named(&'static Section),
}

const fn field(key: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field {
        key,
        kind,
        required: false,
        default: "",
        doc,
        known_as: &[],
    }
}

impl Field {
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    const fn known_as(mut self, names: &'static [&'static str]) -> Self {
        self.known_as = names;
        self
    }
}

/// The smallest and the largest anti-replay window.
pub(crate) const WINDOW: (u64, u64) = (32, 65_536);
/// How many SAs an index of 20 bits can tell apart, and how few make sense.
pub(crate) const SA_CAPACITY: (u64, u64) = (64, 1 << 20);
/// Octets of an IP datagram: what every IPv4 host takes, and what there can be.
pub(crate) const FRAGMENT_SIZE: (u64, u64) = (576, 65_535);
/// How many frames a ring may hold.
pub(crate) const RING_FRAMES: (u64, u64) = (64, 65_536);

/// The whole file.
pub(crate) static ROOT: Section = Section {
    what: "a configuration",
    fields: &[
        field(
            "dataplane",
            Kind::Section(&DATAPLANE),
            "What the dataplane runs on. A change needs its restart.",
        )
        .required()
        .known_as(&["setup", "config", "charon"]),
        field(
            "tunnels",
            Kind::Named(&TUNNEL),
            "The peers, and what is protected between each of them and us.",
        )
        .default("none")
        .known_as(&["connections", "conn", "peers", "connection"]),
        field(
            "pools",
            Kind::Named(&POOL),
            "Addresses for clients: each gets one of each family, and the same again while it is kept for it.",
        )
        .default("none")
        .known_as(&["pool", "rightsourceip", "address-pools"]),
    ],
};

static POOL: Section = Section {
    what: "a pool",
    fields: &[
        field(
            "addresses",
            Kind::Texts("[10.9.0.0/24]"),
            "What is given out: prefixes, or ranges like `10.9.0.10-10.9.0.99`, of IPv4 and IPv6.",
        )
        .required()
        .known_as(&["addrs", "range", "ranges"]),
        field(
            "dns",
            Kind::Texts("[10.1.0.53]"),
            "The name servers that clients are told of.",
        )
        .default("none")
        .known_as(&["rightdns", "nameserver", "dns-servers"]),
        field(
            "networks",
            Kind::Texts("[10.1.0.0/16]"),
            "What clients are told to send through the tunnel (split tunnel).",
        )
        .default("what the children of the tunnels have on our side")
        .known_as(&["subnet", "split_include", "split-tunnel"]),
        field(
            "hold",
            Kind::Text("10m"),
            "How long an address is kept for a client that has left.",
        )
        .default("10m")
        .known_as(&["lease", "lease-time", "timeout"]),
        field(
            "fixed",
            Kind::Texts("[\"carol@example.org = 10.9.0.5\"]"),
            "Addresses that one identity gets, and nobody else.",
        )
        .default("none")
        .known_as(&["static", "reserved"]),
    ],
};

static DATAPLANE: Section = Section {
    what: "the dataplane",
    fields: &[
        field("ports", Kind::Named(&PORT), "The interfaces to take packets from: at least one inside, one outside.")
            .required()
            .known_as(&["interfaces", "nics"]),
        field(
            "workers",
            Kind::Texts("[2, 3]"),
            "The cores to run on, one worker pinned to each: `[2, 3]` or `[2-5]`. Without it, one worker runs where the scheduler puts it.",
        )
        .default("one worker, not pinned")
        .known_as(&["cores", "cpus", "threads"]),
        field(
            "polling",
            Kind::Word(&["busy", "adaptive"]),
            "`busy` spins on a full core for the lowest latency; `adaptive` sleeps while there is nothing to do.",
        )
        .default("busy"),
        field(
            "guard",
            Kind::Switch,
            "Keep unreachable routes in the kernel, so that protected traffic never leaves in the clear, whatever has died.",
        )
        .default("on"),
        field(
            "tap",
            Kind::Text("esp0"),
            "A TAP interface of this name, which the dataplane makes: the gateway's own packets that a child protects go through it. Without it, only traffic of the hosts behind the gateway is protected.",
        )
        .default("none")
        .known_as(&["tun", "host"]),
        field(
            "engine",
            Kind::Word(&["auto", "portable", "aws-lc-rs", "vaes256", "vaes512"]),
            "Which code encrypts packets: `auto` is the fastest that the CPU runs, and one that it does not run is refused.",
        )
        .default("auto"),
        field(
            "sa-capacity",
            Kind::Number(SA_CAPACITY.0, SA_CAPACITY.1),
            "How many SAs there is room for: two a child, four while it rekeys.",
        )
        .default("4096"),
        field(
            "ring-frames",
            Kind::Number(RING_FRAMES.0, RING_FRAMES.1),
            "How many frames each ring holds, a power of two. More ride out longer bursts and cost memory and cache.",
        )
        .default("4096"),
    ],
};

static PORT: Section = Section {
    what: "a port",
    fields: &[
        field(
            "interface",
            Kind::Text("eth1"),
            "The interface's name, as `ip link` shows it.",
        )
        .required()
        .known_as(&["nic", "name"]),
        field(
            "vlan",
            Kind::Number(1, 4094),
            "Take the frames of this VLAN of the interface. Several ports may be VLANs of one interface; what has another tag is the kernel's.",
        )
        .known_as(&["vlan-id", "vid", "tag"]),
        field(
            "device",
            Kind::Text("eth1.100"),
            "The kernel's interface for the VLAN, which has its addresses and routes. Without it, the interface and the VLAN with a dot between.",
        ),
        field(
            "role",
            Kind::Word(&["inside", "outside"]),
            "`inside` faces the hosts whose traffic is protected, `outside` faces the peers.",
        )
        .required()
        .known_as(&["side", "zone"]),
        field(
            "mss-clamp",
            Kind::Switch,
            "Lower the MSS of TCP connections to what fits into a tunnel.",
        )
        .default("on")
        .known_as(&["tcp-mss"]),
        field(
            "udp-checksum",
            Kind::Switch,
            "Fill in the UDP checksum of ESP in UDP over IPv6; off sends zero, as RFC 6935 allows. Over IPv4 it is zero.",
        )
        .default("on"),
        field(
            "checksums",
            Kind::Word(&["complete", "partial"]),
            "`partial` finishes TCP and UDP checksums that senders on a virtual link (veth, virtio) leave to hardware.",
        )
        .default("complete")
        .known_as(&["tx-checksum", "checksum-offload"]),
    ],
};

static TUNNEL: Section = Section {
    what: "a tunnel",
    fields: &[
        field("local", Kind::Section(&LOCAL), "Our end.").required().known_as(&["left", "local_addrs", "leftid"]),
        field("remote", Kind::Section(&REMOTE), "The peer's end.")
            .required()
            .known_as(&["right", "remote_addrs", "rightid"]),
        field("authentication", Kind::Section(&AUTHENTICATION), "How the two ends prove who they are.")
            .required()
            .known_as(&["auth", "authby", "secrets", "leftauth", "rightauth"]),
        field(
            "pool",
            Kind::Text("staff"),
            "The pool from which each client gets the addresses behind it; the children's `remote` names the pool's prefixes.",
        )
        .default("none")
        .known_as(&["pools", "rightsourceip"]),
        field(
            "unique",
            Kind::Text("replace"),
            "How often an identity may be connected to a tunnel whose remote address is any: `replace` once, the newer one; `keep` once, the older one; a number so often, the newest ones; `never` without limit.",
        )
        .default("replace")
        .known_as(&["uniqueness", "uniqueids"]),
        field("ike", Kind::Section(&IKE), "The IKE SA.").known_as(&["phase1"]),
        field("start", START, "`at-once` begins as soon as the gateway is up, and again when the peer has ended it; `wait` leaves it to the peer or the operator.")
            .default("at-once, or wait where the remote address is any")
            .known_as(&["start_action", "close_action", "auto", "startup"]),
        field("children", Kind::Named(&CHILD), "The traffic to protect: a pair of SAs each.")
            .required()
            .known_as(&["child", "phase2", "subnets"]),
    ],
};

const START: Kind = Kind::Word(&["at-once", "wait"]);

static LOCAL: Section = Section {
    what: "our end of a tunnel",
    fields: &[
        field(
            "address",
            Kind::Text("192.0.2.1"),
            "The address to send from; the kernel must hold it.",
        )
        .required()
        .known_as(&["local_addrs", "addrs", "left", "ip"]),
        field("identity", IDENTITY, "Who to say we are.")
            .default("the address")
            .known_as(&["id", "leftid"]),
        field(
            "request",
            Kind::Word(&["ipv4", "ipv6", "both"]),
            "Ask the peer for an address of its pool, of these families: it is put on the TAP, and is our side of every child; the children's `local` says what we take.",
        )
        .default("none")
        .known_as(&["vips", "leftsourceip", "virtual-address"]),
    ],
};

const IDENTITY: Kind = Kind::Text("gw-a.example.org");

static REMOTE: Section = Section {
    what: "the peer's end of a tunnel",
    fields: &[
        field(
            "address",
            Kind::Text("192.0.2.2"),
            "The peer's address, or `any` for a peer that comes from anywhere.",
        )
        .required()
        .known_as(&["remote_addrs", "addrs", "right", "ip"]),
        field(
            "identity",
            IDENTITY,
            "Who the peer must prove to be; `*.example.org`, `*@example.org`, `O=Example, CN=*` or `any` for several.",
        )
            .default("the address; required where that is any")
            .known_as(&["id", "rightid"]),
        field(
            "port",
            Kind::Number(1, 65_535),
            "The UDP port on which the peer listens for IKE.",
        )
        .default("500")
        .known_as(&["remote_port"]),
    ],
};

static AUTHENTICATION: Section = Section {
    what: "the authentication",
    fields: &[
        field("psk", Kind::Section(&PSK), "A key that both ends know; or else a certificate.")
            .known_as(&["secret", "file"]),
        field(
            "certificate",
            Kind::Text("gw-a.pem"),
            "The PEM file with our certificate and, behind it, those that lead to an authority that the peer trusts.",
        )
        .known_as(&["cert", "certs", "leftcert"]),
        field(
            "key",
            Kind::Text("gw-a.key"),
            "The PEM file with its private key (PKCS#8, PKCS#1 or SEC 1), readable by its owner only.",
        )
        .known_as(&["private-key", "private_key"]),
        field(
            "ca",
            Kind::Texts("[ca.pem]"),
            "The PEM or DER files with the authorities one of which must have issued the peer's certificate.",
        )
        .known_as(&["cacerts", "cacert", "authority", "authorities"]),
        field(
            "crl",
            Kind::Texts("[ca.crl]"),
            "The PEM or DER files with lists of revoked certificates.",
        )
        .default("none")
        .known_as(&["crls"]),
        field(
            "crl-policy",
            Kind::Word(&["relaxed", "strict", "off"]),
            "`strict` refuses a certificate of whose issuer there is no list that is up to date; `relaxed` what a list revokes.",
        )
        .default("relaxed")
        .known_as(&["revocation", "strictcrlpolicy"]),
        field(
            "eap",
            Kind::Section(&EAP),
            "Clients prove by EAP who they are, and the gateway by its certificate: a gateway has `users`, a client `identity` and `password`; with `method: tls` both have certificates.",
        )
        .known_as(&["leftauth", "rightauth"]),
        field(
            "rsa-padding",
            Kind::Word(&["pss", "pkcs1"]),
            "How an RSA key of ours signs; `pkcs1` for peers that know no PSS. Of the peer either is taken.",
        )
        .default("pss"),
    ],
};

static EAP: Section = Section {
    what: "EAP",
    fields: &[
        field(
            "method",
            Kind::Word(&["mschapv2", "tls"]),
            "`mschapv2` proves by a password, `tls` by a certificate: then both ends have `certificate`, `key` and `ca`.",
        )
        .default("mschapv2")
        .known_as(&["auth", "type"]),
        field(
            "users",
            Kind::Text("clients.users"),
            "The file of the clients, `NAME: PASSWORD` in each line, readable by its owner only.",
        )
        .known_as(&["secrets", "file"]),
        field("identity", Kind::Text("carol@example.org"), "Our name.")
            .default("our identity")
            .known_as(&["eap_id", "eap_identity", "name", "user"]),
        field("password", Kind::Section(&PASSWORD), "Our password.").known_as(&["secret"]),
    ],
};

static PASSWORD: Section = Section {
    what: "the password",
    fields: &[field(
        "file",
        Kind::Text("carol.password"),
        "The file that holds it in one line, relative to this one, readable by its owner only.",
    )
    .required()
    .known_as(&["path"])],
};

static PSK: Section = Section {
    what: "the pre-shared key",
    fields: &[
        field(
            "file",
            Kind::Text("site-b.psk"),
            "The file that holds it, relative to this one, readable by its owner only. `0x` begins hexadecimal digits, `0s` Base64.",
        )
        .known_as(&["path"]),
        field("secret", Kind::Text("0s..."), "The key itself; only in a file that its owner alone can read.")
            .known_as(&["key", "value"]),
    ],
};

static IKE: Section = Section {
    what: "the IKE SA",
    fields: &[
        field(
            "proposals",
            Kind::Texts("[aes256gcm16-sha384-x25519]"),
            "What to offer and accept, the preferred first.",
        )
        .default(esplanade_ike::config::DEFAULT_IKE)
        .known_as(&["ike", "proposal", "crypto"]),
        field("rekey", Kind::Text("4h"), "When its keys are replaced.")
            .default("4h")
            .known_as(&["rekey_time", "rekey-time", "reauth_time", "ikelifetime"]),
        field(
            "lifetime",
            Kind::Text("5h"),
            "When it ends if rekeying failed.",
        )
        .default("rekey and a tenth")
        .known_as(&["over_time", "life_time"]),
        field(
            "dpd-delay",
            Kind::Text("30s"),
            "After how long a silence to ask whether the peer lives; `off` never asks.",
        )
        .default("30s")
        .known_as(&["liveness", "dpd", "dpddelay", "keepalive"]),
        field(
            "fragment-size",
            Kind::Number(FRAGMENT_SIZE.0, FRAGMENT_SIZE.1),
            "The largest IP datagram that the way to the peer takes: longer IKE messages go in fragments of this size.",
        )
        .default("1280")
        .known_as(&["fragment_size", "fragmentation", "mtu"]),
        field(
            "keep-trying",
            Kind::Switch,
            "Go on trying to reach a peer that does not answer.",
        )
        .default("on")
        .known_as(&["keyingtries"]),
    ],
};

static CHILD: Section = Section {
    what: "a child",
    fields: &[
        field(
            "local",
            Kind::Texts("[10.1.0.0/16]"),
            "Our side of the traffic: prefixes, with `[tcp/443]` behind them if need be.",
        )
        .required()
        .known_as(&["local_ts", "leftsubnet", "local-subnets"]),
        field(
            "remote",
            Kind::Texts("[10.2.0.0/16]"),
            "The peer's side of the traffic.",
        )
        .required()
        .known_as(&["remote_ts", "rightsubnet", "remote-subnets"]),
        field(
            "proposals",
            Kind::Texts("[aes256gcm16-x25519]"),
            "What to offer and accept, the preferred first. With AH, the default is `sha256` and `sha512`, each with `x25519` and without.",
        )
        .default(esplanade_ike::config::DEFAULT_ESP)
        .known_as(&["esp_proposals", "ah_proposals", "phase2alg", "proposal"]),
        field(
            "protocol",
            Kind::Word(&["esp", "ah"]),
            "`esp` encrypts and authenticates; `ah` authenticates only, addresses included, and passes no NAT.",
        )
        .default("esp")
        .known_as(&["phase2", "esp", "ah"]),
        field(
            "mode",
            Kind::Word(&["tunnel", "transport", "transport-if-possible"]),
            "`tunnel` wraps whole packets; `transport` protects what packets between the two gateways themselves carry; `transport-if-possible` leaves the choice to the peer.",
        )
        .default("tunnel")
        .known_as(&["type"]),
        field("tfc", Kind::Section(&TFC), "What hides the size and the number of packets.")
            .known_as(&["tfc_padding"]),
        field(
            "esn",
            Kind::Word(&["prefer", "require", "off"]),
            "Extended sequence numbers, for proposals that do not say.",
        )
        .default("prefer"),
        field("rekey", Kind::Text("1h"), "When its keys are replaced.")
            .default("1h")
            .known_as(&["rekey_time", "rekey-time", "keylife"]),
        field(
            "lifetime",
            Kind::Text("70m"),
            "When it ends if rekeying failed.",
        )
        .default("rekey and a tenth")
        .known_as(&["life_time", "salifetime"]),
        field(
            "rekey-bytes",
            BYTES,
            "After how many bytes its keys are replaced.",
        )
        .default("no limit")
        .known_as(&["rekey_bytes"]),
        field("lifetime-bytes", BYTES, "After how many bytes it ends.")
            .default("rekey-bytes and a tenth")
            .known_as(&["life_bytes", "lifebytes"]),
        field(
            "rekey-packets",
            PACKETS,
            "After how many packets its keys are replaced.",
        )
        .default("no limit")
        .known_as(&["rekey_packets"]),
        field(
            "lifetime-packets",
            PACKETS,
            "After how many packets it ends.",
        )
        .default("rekey-packets and a tenth")
        .known_as(&["life_packets", "lifepackets"]),
        field(
            "replay-window",
            Kind::Number(WINDOW.0, WINDOW.1),
            "How many packets back one may arrive late.",
        )
        .default("1024")
        .known_as(&["replay_window", "window"]),
        field(
            "priority",
            Kind::Number(0, u32::MAX as u64),
            "Where the traffic of two children overlaps, the lower number takes it.",
        )
        .default("1000"),
        field(
            "dscp",
            Kind::Text("copy"),
            "The outer header's DSCP: `copy` for the inner packet's, a number from 0 to 63, or a name such as `ef`, `af41`, `cs1`.",
        )
        .default("copy")
        .known_as(&["copy_dscp", "copy-dscp", "tos"]),
        field(
            "df",
            Kind::Word(&["copy", "set", "clear"]),
            "The outer header's \"don't fragment\".",
        )
        .default("copy")
        .known_as(&["copy_df", "dont-fragment"]),
        field(
            "fragment",
            Kind::Word(&["before", "after"]),
            "When a packet that is too long, and may be fragmented, is: `before` it is sealed, which spares the peer putting it together, or `after`, which hides that it was.",
        )
        .default("before")
        .known_as(&["fragmentation"]),
        field(
            "path-mtu",
            Kind::Number(576, 65_535),
            "The largest IP packet that the way to the peer takes, where the route's MTU is more and no router on the way says so.",
        )
        .default("that of the route, and less when a router says so")
        .known_as(&["mtu", "path_mtu"]),
        field("start", START, "As for the tunnel, for this child alone.")
            .default("the tunnel's")
            .known_as(&["start_action", "close_action", "auto"]),
    ],
};

static TFC: Section = Section {
    what: "traffic flow confidentiality",
    fields: &[
        field(
            "size",
            Kind::Text("1400"),
            "How many bytes inner packets are padded to at least, as far as the path carries them; `mtu` is as many as it does.",
        )
        .known_as(&["pad", "padding"]),
        field(
            "multiple",
            Kind::Number(2, 1400),
            "Inner packets are padded to a multiple of so many bytes.",
        )
        .known_as(&["block"]),
        field(
            "dummies",
            Kind::Number(1, 1000),
            "How many dummy packets are sent a second, which the peer discards.",
        )
        .default("none")
        .known_as(&["dummy", "rate"]),
    ],
};

const BYTES: Kind = Kind::Text("500GiB");
const PACKETS: Kind = Kind::Number(1, u64::MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn each(section: &'static Section, visit: &mut impl FnMut(&'static Section)) {
        visit(section);
        for field in section.fields {
            if let Kind::Section(inner) | Kind::Named(inner) = field.kind {
                each(inner, visit);
            }
        }
    }

    #[test]
    fn a_foreign_name_leads_to_one_key_at_most() {
        each(&ROOT, &mut |section| {
            let mut seen = std::collections::HashSet::new();
            for field in section.fields {
                for name in field.known_as.iter().chain([&field.key]) {
                    assert!(seen.insert(*name), "{name} twice in {}", section.what);
                }
            }
        });
    }
}

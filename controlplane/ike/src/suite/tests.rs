use super::*;

#[test]
fn proposals_read_back_what_they_print() {
    for proposal in IkeProposal::defaults() {
        assert_eq!(proposal.to_string().parse(), Ok(proposal));
    }
    for proposal in ChildProposal::defaults() {
        assert_eq!(proposal.to_string().parse(), Ok(proposal));
    }
    let mixed: IkeProposal = "aes128-sha256-prfsha512-modp2048".parse().unwrap();
    assert_eq!(mixed.prf, Prf::HmacSha512);
    assert_eq!(mixed.to_string().parse(), Ok(mixed));
    let pfs: ChildProposal = "aes128gcm16-ecp384-esn".parse().unwrap();
    assert_eq!(pfs.to_string(), "aes128gcm16-ecp384-esn");
    let hybrid = "aes128gcm16-x25519-ke1_mlkem768-ke3_ecp521-esn";
    let read: ChildProposal = hybrid.parse().unwrap();
    assert_eq!(read.to_string(), hybrid);
    let methods: Vec<_> = read.additional.methods().collect();
    assert_eq!(
        methods,
        [KeyExchangeMethod::MlKem768, KeyExchangeMethod::P521]
    );
}

#[test]
fn esp_algorithms_are_known_by_name_and_by_number() {
    for encryption in EspEncryption::ALL {
        let integrity: &[_] = if encryption.is_combined() {
            &[None]
        } else {
            &[
                Some(EspIntegrity::HmacSha512),
                Some(EspIntegrity::HmacSha384),
                Some(EspIntegrity::HmacSha256),
                Some(EspIntegrity::HmacSha1),
            ]
        };
        for integrity in integrity {
            let esp = Esp {
                encryption: *encryption,
                integrity: *integrity,
            };
            let esp = Protection::Esp(esp);
            assert_eq!(Protection::from_numbers(esp.numbers()), Some(esp));
            let read: ChildProposal = esp.to_string().parse().unwrap();
            assert_eq!(read.protection, esp);
        }
    }
    for integrity in AhIntegrity::ALL {
        let ah = Protection::Ah(*integrity);
        assert_eq!(Protection::from_numbers(ah.numbers()), Some(ah));
        let read: ChildProposal = ah.to_string().parse().unwrap();
        assert_eq!(read.protection, ah);
    }
    let pfs: ChildProposal = "ah-sha256-x25519-esn".parse().unwrap();
    assert_eq!(pfs.to_string(), "ah-sha256-x25519-esn");
    for none in [
        (12, 128, 0),
        (20, 128, 12),
        (20, 0, 0),
        (28, 256, 0),
        (0, 0, 0),
    ] {
        assert_eq!(Protection::from_numbers(none), None, "{none:?}");
    }
}

#[test]
fn keying_material_is_as_long_as_the_rfcs_say() {
    for (name, octets) in [
        ("aes128gcm16", 20),      // RFC 4106 8.1
        ("aes192gcm16iiv", 28),   // RFC 8750 3
        ("chacha20poly1305", 36), // RFC 7634 2
        ("aes128ccm16", 19),      // RFC 4309 7.1
        ("aes256gmac", 36),       // RFC 4543 5.4
        ("aes128-sha256", 48),    // RFC 3602, RFC 4868 2.1.1
        ("aes256-sha512", 96),    // RFC 3602, RFC 4868 2.1.1
        ("null-sha1", 20),        // RFC 2410, RFC 2404 3
        ("ah-sha1", 20),          // RFC 2404 3
        ("ah-sha384", 48),        // RFC 4868 2.1.1
        ("ah-aes128gmac", 20),    // RFC 4543 5.4
    ] {
        let proposal: ChildProposal = name.parse().unwrap();
        assert_eq!(proposal.protection.keymat_len(), octets, "{name}");
    }
}

/// The words are strongSwan's, in any case of letters, and the registry's and libreswan's are understood too.
#[test]
fn other_spellings_are_understood() {
    let ike = |words: &str| words.parse::<IkeProposal>().unwrap();
    assert_eq!(ike("AES128-SHA2_256-dh14"), ike("aes128-sha256-modp2048"));
    assert_eq!(
        ike("aes128-sha256-prfsha256-modp2048"),
        ike("aes128-sha256-modp2048")
    );
    let esp = |words| ChildWords::esp(words).unwrap();
    assert_eq!(esp("aes192gcm"), esp("aes192gcm16"));
    assert_eq!((esp("aes192gcm").kex, esp("aes192gcm").esn), (None, None));
    assert_eq!(esp("null-sha"), esp("null-sha1"));
}

#[test]
fn children_answer_for_extended_sequence_numbers_once() {
    let both = ChildWords::esp("aes256gcm16-x25519").unwrap();
    let esn: Vec<bool> = both.proposals(&[true, false]).map(|p| p.esn).collect();
    assert_eq!(esn, [true, false]);
    let none = ChildWords::ah("sha256-noesn").unwrap();
    let esn: Vec<bool> = none.proposals(&[true, false]).map(|p| p.esn).collect();
    assert_eq!(esn, [false]);
}

#[test]
fn no_default_is_lost() {
    let count = |words: &str| words.split(", ").count();
    assert_eq!(IkeProposal::defaults().len(), count(DEFAULT_IKE));
    assert_eq!(ChildProposal::defaults().len(), 2 * count(DEFAULT_ESP));
    assert_eq!(ChildWords::default_ah().len(), count(DEFAULT_AH));
    assert!(
        IkeProposal::defaults()[0]
            .additional
            .methods()
            .eq([KeyExchangeMethod::MlKem768])
    );
}

#[test]
fn mistakes_say_what_is_wrong_and_what_would_be_right() {
    let ike = |words: &str| words.parse::<IkeProposal>().unwrap_err();
    let esp = |words: &str| ChildWords::esp(words).unwrap_err();
    let ah = |words: &str| ChildWords::ah(words).unwrap_err();
    for (error, what, help) in [
        (
            ike("aes257-sha256-x25519"),
            "unknown algorithm `aes257`",
            "aes256gcm16, aes128gcm16, aes256",
        ),
        (ike(""), "unknown algorithm ``", "mlkem1024"),
        (
            ike("chacha20poly1305-sha256-x25519"),
            "unknown algorithm",
            "prfsha512",
        ),
        (
            ike("aes256gcm16-x25519"),
            "lacks its PRF",
            "aes256gcm16-sha384-x25519",
        ),
        (
            ike("aes256-x25519"),
            "lacks its integrity, which `aes256` needs",
            "aes256-sha256-x25519",
        ),
        (
            ike("aes256-prfsha256-x25519"),
            "lacks its integrity",
            "aes256-sha256-x25519",
        ),
        (
            ike("aes256gcm16-sha384"),
            "lacks its key exchange",
            "x25519",
        ),
        (
            ike("aes256gcm16-sha384-ke1_mlkem768"),
            "lacks its key exchange",
            "x25519",
        ),
        (ike("sha384-x25519"), "lacks its encryption", "aes256gcm16"),
        (
            ike("aes256gcm16-sha384-sha384-x25519"),
            "two algorithms for integrity",
            "one of each kind",
        ),
        (
            ike("aes256gcm16-sha384-prfsha256-x25519"),
            "`aes256gcm16` authenticates by itself",
            "leave `sha384` out",
        ),
        (
            ike("aes256gcm16-sha384-x25519-ke1_x25519"),
            "by x25519 twice",
            "each method once",
        ),
        (
            ike("aes256gcm16-sha384-x25519-ke1_mlkem512-ke1_mlkem768"),
            "two algorithms for additional key exchange 1",
            "one of each kind",
        ),
        (
            ike("aes256gcm16-sha384-x25519-ke8_mlkem768"),
            "`ke8_mlkem768` has no place",
            "ke1 to ke7",
        ),
        (
            ike("aes256gcm16-sha384-x25519-ke1_mlkem76"),
            "unknown algorithm `mlkem76`",
            "mlkem768",
        ),
        (
            ike("aes256gcm16-sha384-mlkem1024"),
            "does not fit into the first message",
            "x25519-ke1_mlkem1024",
        ),
        (
            esp("aes128"),
            "lacks its integrity, which `aes128` needs",
            "aes128-sha256",
        ),
        (
            esp("chacha20poly1305-sha256"),
            "`chacha20poly1305` authenticates by itself",
            "leave `sha256` out",
        ),
        (esp("x25519"), "lacks its encryption", "aes256gcm16-x25519"),
        (
            esp("aes256gcm16-esn-noesn"),
            "two algorithms for sequence numbers",
            "one of each kind",
        ),
        (
            esp("aes256gcm16-prfsha256"),
            "unknown algorithm `prfsha256`",
            "noesn",
        ),
        (
            esp("aes128gcm16-x25519-ke2_x25519"),
            "by x25519 twice",
            "each method once",
        ),
        (
            esp("aes128gcm16-ke1_mlkem768"),
            "lacks the first key exchange",
            "aes128gcm16-x25519-ke1_mlkem768",
        ),
        (ah("x25519"), "lacks its integrity", "sha256-x25519"),
        (
            ah("sha256-sha1"),
            "two algorithms for integrity",
            "one of each kind",
        ),
        (ah("aes256gcm16"), "unknown algorithm", "aes256gmac"),
        (
            ah("sha256-ke1_mlkem768"),
            "lacks the first key exchange",
            "`sha256-x25519-ke1_mlkem768`",
        ),
    ] {
        assert!(error.to_string().contains(what), "{error} is not {what}");
        assert!(
            error.help().contains(help),
            "{} is not {help}",
            error.help()
        );
    }
    assert!("aes256gcm16-sha384-mlkem768".parse::<IkeProposal>().is_ok());
    assert!("ah-sha256-aes128".parse::<ChildProposal>().is_err());
}

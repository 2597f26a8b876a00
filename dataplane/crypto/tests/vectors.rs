//! Published vectors: the test cases of McGrew and Viega's "The Galois/Counter Mode of Operation", appendix B, which NIST
//! took over, the ESP packets of draft-mcgrew-gcm-test-01, and what the RFCs of the other algorithms have.

mod common;

use common::{able, hex, open, open_with_iv, seal, split_nonce};
use esplanade_crypto::{
    Aad, AesKey, Algorithm, ComputeJob, Encryption, EngineKind, Hmac, Integrity, IntegrityKey,
    MAX_TRAILER, ReceivedIv, Trailer, compute_batch,
};

struct Vector {
    name: &'static str,
    key: &'static str,
    nonce: &'static str,
    aad: &'static str,
    plaintext: &'static str,
    ciphertext: &'static str,
    icv: &'static str,
}

impl Vector {
    /// Of AES-GCM.
    fn algorithm(&self) -> Algorithm {
        match hex(self.key).len() {
            16 => Algorithm::AES_128_GCM_16,
            _ => Algorithm::AES_256_GCM_16,
        }
    }

    /// With the last `trailer_len` bytes of the plaintext given as the trailer.
    fn check(&self, engine: EngineKind, algorithm: Algorithm, trailer_len: usize) {
        let key = hex(self.key);
        let (key_material, iv) = split_nonce(&key, &hex(self.nonce));
        let (aad, plaintext) = (hex(self.aad), hex(self.plaintext));
        let ciphertext = [hex(self.ciphertext), hex(self.icv)].concat();
        let (start, end) = plaintext.split_at(plaintext.len() - trailer_len);

        let trailer = Trailer::new(end).unwrap();
        let sealed = seal(
            engine,
            algorithm,
            &key_material,
            iv,
            &aad[..],
            start,
            trailer,
        );
        assert_eq!(sealed, ciphertext, "{engine} seals {}", self.name);
        let opened = open(engine, algorithm, &key_material, iv, &aad[..], &ciphertext);
        assert_eq!(opened, Some(plaintext), "{engine} opens {}", self.name);
    }
}

#[test]
fn test_cases_of_the_mode() {
    for engine in EngineKind::available() {
        for vector in &MODE {
            vector.check(*engine, vector.algorithm(), 0);
        }
    }
}

#[test]
fn packets_of_the_draft() {
    for engine in EngineKind::available() {
        for vector in &PACKETS {
            // The plaintexts end in padding, pad length and next header.
            let plaintext = hex(vector.plaintext);
            let pad_length = usize::from(plaintext[plaintext.len() - 2]);
            for trailer_len in [0, 2, pad_length + 2] {
                vector.check(*engine, vector.algorithm(), trailer_len);
            }
        }
    }
}

const MODE: [Vector; 8] = [
    Vector {
        name: "test case 1",
        key: "00000000000000000000000000000000",
        nonce: "000000000000000000000000",
        aad: "",
        plaintext: "",
        ciphertext: "",
        icv: "58e2fccefa7e3061367f1d57a4e7455a",
    },
    Vector {
        name: "test case 2",
        key: "00000000000000000000000000000000",
        nonce: "000000000000000000000000",
        aad: "",
        plaintext: "00000000000000000000000000000000",
        ciphertext: "0388dace60b6a392f328c2b971b2fe78",
        icv: "ab6e47d42cec13bdf53a67b21257bddf",
    },
    Vector {
        name: "test case 3",
        key: "feffe9928665731c6d6a8f9467308308",
        nonce: "cafebabefacedbaddecaf888",
        aad: "",
        plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
        ciphertext: "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
                     21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985",
        icv: "4d5c2af327cd64a62cf35abd2ba6fab4",
    },
    Vector {
        name: "test case 4",
        key: "feffe9928665731c6d6a8f9467308308",
        nonce: "cafebabefacedbaddecaf888",
        aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        ciphertext: "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
                     21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
        icv: "5bc94fbc3221a5db94fae95ae7121a47",
    },
    Vector {
        name: "test case 13",
        key: "0000000000000000000000000000000000000000000000000000000000000000",
        nonce: "000000000000000000000000",
        aad: "",
        plaintext: "",
        ciphertext: "",
        icv: "530f8afbc74536b9a963b4f1c4cb738b",
    },
    Vector {
        name: "test case 14",
        key: "0000000000000000000000000000000000000000000000000000000000000000",
        nonce: "000000000000000000000000",
        aad: "",
        plaintext: "00000000000000000000000000000000",
        ciphertext: "cea7403d4d606b6e074ec5d3baf39d18",
        icv: "d0d1c8a799996bf0265b98b5d48ab919",
    },
    Vector {
        name: "test case 15",
        key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        nonce: "cafebabefacedbaddecaf888",
        aad: "",
        plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
        ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                     8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
        icv: "b094dac5d93471bdec1a502270e3cc6c",
    },
    Vector {
        name: "test case 16",
        key: "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
        nonce: "cafebabefacedbaddecaf888",
        aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        plaintext: "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                    1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        ciphertext: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                     8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
        icv: "76fc6ece0f4e1768cddf8853bb2d551b",
    },
];

const PACKETS: [Vector; 8] = [
    Vector {
        name: "128-bit key, ESN",
        key: "4c80cdefbb5d10da906ac73c3613a634",
        nonce: "2e443b684956ed7e3b244cfe",
        aad: "000043218765432100000000",
        plaintext: "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000\
                    00000000045f736970045f756470037369700963796265726369747902646b00\
                    0021000101020201",
        ciphertext: "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34\
                     cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce\
                     61bc17d768fd9732",
        icv: "459018148f6cbe722fd04796562dfdb4",
    },
    Vector {
        name: "128-bit key",
        key: "feffe9928665731c6d6a8f9467308308",
        nonce: "cafebabefacedbaddecaf888",
        aad: "0000a5f80000000a",
        plaintext: "4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d00100\
                    0001000000000000037369700963796265726369747902646b00000100010001",
        ciphertext: "deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c\
                     3de81827c10e9a4f51330d0eec416642cfbb85a5b47e48a4ec3b9ba95d918bd1",
        icv: "83b70d3aa8bc6ee4c309e9d85a41ad4a",
    },
    Vector {
        name: "256-bit key",
        key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        nonce: "112233440102030405060708",
        aad: "4a2cbfe300000002",
        plaintext: "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000\
                    7002400020bf0000020405b40101040201020201",
        ciphertext: "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763\
                     748a637985771d347f0545659f14e99def842d8e",
        icv: "b335f4eecfdbf831824b4c4915956c96",
    },
    Vector {
        name: "an empty packet",
        key: "3de09874b388e6491988d0c3607eae1f",
        nonce: "57690e434e280000a2fca1a3",
        aad: "42f67e3f1010101010101010",
        plaintext: "4500001c42a200008001441f406793b6e00000020a00f5ff01020201",
        ciphertext: "fba2ca845e5df9f0f22c3e6e86dd831e1fc65792cd1af9130e1379ed",
        icv: "369f071f35e034be95f112e4e7d05d35",
    },
    Vector {
        name: "128-bit key, ESN, one byte of padding",
        key: "abbccddef00112233445566778899aab",
        nonce: "decaf888cafedebaceface74",
        aad: "000001000000000000000001",
        plaintext: "4500004933ba00007f119106c3fb1d10c2b1d326c02831ce0035dd7b800302d5\
                    00004e20001e8c18d75b81dc91baa0476b91b924b280389d92c963bac046ec95\
                    9b6266c04722b14923010101",
        ciphertext: "18a6fd42f72cbf4ab2a2ea901f73d814e3e7f243d95412e1c349c1d2fbec168f\
                     9190feebaf2cb01984e65863965d7472b79da345e0e780191f0d2f0e0f496c22\
                     6f2127b27db35724e7845d68",
        icv: "651f57e65f354f75ff17015769623436",
    },
    Vector {
        name: "256-bit key, ESN",
        key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
        nonce: "73616c74616e640169766563",
        aad: "17405e67156f3126dd0db99b",
        plaintext: "45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb712602\
                    50101f646d540001",
        ciphertext: "f2d69ecdbd5a0d5b8d5ef38bad4da58d1f278fde98ef67549d524a3018d9a57f\
                     f4d3a31ce673119e",
        icv: "451626c2415771e3b7eebca614c89b35",
    },
    Vector {
        name: "nothing but a trailer",
        key: "7d773d00c144c525ac619d18c84a3f47",
        nonce: "d966426743457e9182443bc6",
        aad: "335467aeffffffff",
        plaintext: "01020201",
        ciphertext: "437f866b",
        icv: "cb3f699fe9b0822bac961c4504bef270",
    },
    Vector {
        name: "256-bit key, ESN, all bits of the sequence number set",
        key: "6c6567616c697a656d6172696a75616e61616e64646f69746265666f72656961",
        nonce: "7475726e333021696765746d",
        aad: "796b6963ffffffffffffffff",
        plaintext: "45000030da3a00008001df3bc0a80005c0a800010800c6cd0200070061626364\
                    65666768696a6b6c6d6e6f707172737401020201",
        ciphertext: "f97ab2aa356d8edce17644ac8c78e25dd24dedbb29ebf1b64a274b39b49c3a86\
                     4cd3d78ca4ae68a32b42458fb57dbe821dcc63b9",
        icv: "d0937ba2945f669368661a329fb4c053",
    },
];

/// RFC 7634, appendix A.
#[test]
fn examples_of_rfc_8439() {
    let algorithm = Algorithm::CHACHA20_POLY1305;
    for engine in able(algorithm) {
        for vector in &EXAMPLES {
            for trailer_len in 0..=MAX_TRAILER {
                vector.check(engine, algorithm, trailer_len);
            }
        }
    }
}

#[test]
fn packet_of_rfc_7634() {
    let material = hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3");
    let plaintext = hex(
        "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10\
         0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223\
         2425262728292a2b2c2d2e2f303132333435363701020204",
    );
    let sealed = hex(
        "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6\
         14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3\
         cbec163fac469b502773f6fb94e664da9165b82829f641e0\
         76aaa8266b7fb0f7b11b369907e1ad43",
    );
    let (payload, trailer) = plaintext.split_at(84);
    let trailer = Trailer::new(trailer).unwrap();
    let (algorithm, number) = (Algorithm::CHACHA20_POLY1305, 0x1011_1213_1415_1617);
    let aad = Aad::plain(0x0102_0304, 5);
    for engine in able(algorithm) {
        let found = seal(engine, algorithm, &material, number, aad, payload, trailer);
        assert_eq!(found, sealed, "{engine}");
        let opened = open(engine, algorithm, &material, number, aad, &sealed);
        assert_eq!(opened.as_ref(), Some(&plaintext), "{engine}");
    }
}

/// The ESP packets of RFC 3602, section 4, which have no ICV: cases 5 and 7. NULL with the same HMAC gives them one.
#[test]
fn packets_of_rfc_3602() {
    let packets = [
        (
            "90d382b410eeba7ad938c46cec1a82bf",
            Aad::plain(0x4321, 1),
            "e96e8c08ab465763fd098d45dd3ff893",
            "08000ebda70a00008e9c083db95b070008090a0b0c0d0e0f1011121314151617\
             18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637\
             0102030405060708090a0b0c0d0e0e01",
            "f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856\
             a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874a\
             a269add047ad2d5913ac19b7cfbad4a6",
        ),
        (
            "0123456789abcdef0123456789abcdef",
            Aad::plain(0x8765, 2),
            "f4e765244f6407adf13dc1380f673f37",
            "45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d\
             02a2040008090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223\
             2425262728292a2b2c2d2e2f30313233343536370102030405060708090a0a04",
            "773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8\
             e4ecaec78ac53aad7a0f022b859243c647752e94a859352b8a4d4d2decd136e5\
             c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d",
        ),
    ];
    for mac in Hmac::ALL {
        let cbc = Algorithm::EncryptThenMac(Encryption::AesCbc(AesKey::Bits128), mac);
        let null = Algorithm::EncryptThenMac(Encryption::Null, mac);
        let mac_key = vec![0x0b; mac.key_len()];
        for (key, aad, iv, plaintext, ciphertext) in packets {
            let material = [&hex(key), &mac_key[..]].concat();
            let (iv, ciphertext) = (hex(iv), hex(ciphertext));
            let covered = [aad.as_bytes(), &iv].concat();
            for engine in able(cbc) {
                let none = Trailer::NONE;
                let sealed = seal(engine, null, &mac_key, 0, &covered[..], &ciphertext, none);
                let iv = ReceivedIv::new(cbc, &iv, 0).unwrap();
                let opened = open_with_iv(engine, cbc, &material, iv, aad, &sealed);
                assert_eq!(opened, Some(hex(plaintext)), "{engine} {cbc}");
            }
        }
    }
}

/// RFC 4868 2.7.2, test cases 1 and 2; RFC 2202 3, test case 1, which is truncated for RFC 2404.
#[test]
fn integrity_of_rfc_4868_and_2202() {
    let vectors = [
        (
            Hmac::Sha2_256,
            vec![0x0b; 32],
            "Hi There",
            "198a607eb44bfbc69903a0f1cf2bbdc5",
        ),
        (
            Hmac::Sha2_256,
            b"Jefe".repeat(8),
            "what do ya want for nothing?",
            "167f928588c5cc2eef8e3093caa0e87c",
        ),
        (
            Hmac::Sha2_384,
            vec![0x0b; 48],
            "Hi There",
            "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973",
        ),
        (
            Hmac::Sha2_384,
            b"Jefe".repeat(12),
            "what do ya want for nothing?",
            "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184d",
        ),
        (
            Hmac::Sha2_512,
            vec![0x0b; 64],
            "Hi There",
            "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
        ),
        (
            Hmac::Sha2_512,
            b"Jefe".repeat(16),
            "what do ya want for nothing?",
            "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454",
        ),
        (
            Hmac::Sha1,
            vec![0x0b; 20],
            "Hi There",
            "b617318655057264e28bc0b6",
        ),
    ];
    for engine in EngineKind::available() {
        for (mac, key, message, icv) in &vectors {
            let key = IntegrityKey::new(*engine, Integrity::Hmac(*mac), key).unwrap();
            let (first, second) = message.split_at(5);
            let segments = [first.as_bytes(), second.as_bytes()];
            let mut found = vec![0; mac.icv_len()];
            let iv = common::numbered(1);
            compute_batch(&mut [ComputeJob::new(&key, iv, &segments, &mut found).unwrap()]);
            assert_eq!(found, hex(icv), "{engine} {mac}");
        }
    }
}

const EXAMPLES: [Vector; 2] = [
    Vector {
        name: "the example (2.8.2)",
        key: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        nonce: "070000004041424344454647",
        aad: "50515253c0c1c2c3c4c5c6c7",
        plaintext: "4c616469657320616e642047656e746c656d656e206f662074686520636c6173\
                    73206f66202739393a204966204920636f756c64206f6666657220796f75206f\
                    6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73\
                    637265656e20776f756c642062652069742e",
        ciphertext: "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6\
                    3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36\
                    92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
                    3ff4def08e4b7a9de576d26586cec64b6116",
        icv: "1ae10b594f09e26a7e902ecbd0600691",
    },
    Vector {
        name: "decryption (A.5)",
        key: "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0",
        nonce: "000000000102030405060708",
        aad: "f33388860000000000004e91",
        plaintext: "496e7465726e65742d4472616674732061726520647261667420646f63756d65\
                    6e74732076616c696420666f722061206d6178696d756d206f6620736978206d\
                    6f6e74687320616e64206d617920626520757064617465642c207265706c6163\
                    65642c206f72206f62736f6c65746564206279206f7468657220646f63756d65\
                    6e747320617420616e792074696d652e20497420697320696e617070726f7072\
                    6961746520746f2075736520496e7465726e65742d4472616674732061732072\
                    65666572656e6365206d6174657269616c206f7220746f206369746520746865\
                    6d206f74686572207468616e206173202fe2809c776f726b20696e2070726f67\
                    726573732e2fe2809d",
        ciphertext: "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2\
                    4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf\
                    332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855\
                    9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4\
                    b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e\
                    af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a\
                    0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10\
                    49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29\
                    a6ad5cb4022b02709b",
        icv: "eead9d67890cbb22392336fea1851f38",
    },
];

//! MS-CHAPv2 (RFC 2759), its messages within EAP (draft-kamath-pppext-eap-mschapv2), and the key that comes of it (RFC
//! 3079 3.4). It needs DES and MD4, and its strength is that of one DES key: so it is only for within a tunnel whose
//! server has proved who it is.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use des::cipher::{BlockCipherEncrypt, KeyInit};
use md4::{Digest, Md4};
use zeroize::Zeroizing;

use crate::secret::Secret;

const CHALLENGE: u8 = 1;
const RESPONSE: u8 = 2;
const SUCCESS: u8 = 3;
const FAILURE: u8 = 4;

/// Octets of a response's value: the peer's challenge, eight that are reserved, the response, and flags.
const RESPONSE_LEN: u8 = 49;
/// The longest name that we read.
const LONGEST_NAME: usize = 256;

/// What both ends have said, of which the answers of both are made.
#[derive(Clone, Debug)]
pub(crate) struct Exchange<'e> {
    /// The server's challenge.
    pub(crate) server: [u8; 16],
    /// The client's.
    pub(crate) client: [u8; 16],
    /// The user's name.
    pub(crate) name: &'e str,
}

type Hash = Zeroizing<[u8; 16]>;

fn sha1(parts: &[&[u8]]) -> Zeroizing<[u8; 20]> {
    let whole = Zeroizing::new(parts.concat());
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &whole);
    Zeroizing::new(digest.as_ref().first_chunk().copied().unwrap_or_default())
}

fn md4(octets: &[u8]) -> Hash {
    Zeroizing::new(Md4::digest(octets).into())
}

/// RFC 2759 8.3, NtPasswordHash: of the password in UTF-16, little end first.
fn password_hash(password: &Secret) -> Hash {
    let text = String::from_utf8_lossy(password.expose());
    let text = Zeroizing::new(text.into_owned());
    let units = text.encode_utf16().flat_map(u16::to_le_bytes);
    md4(&Zeroizing::new(units.collect::<Vec<u8>>()))
}

impl Exchange<'_> {
    /// RFC 2759 8.2, ChallengeHash. "only the user name (as presented by the peer and excluding any prepended domain name)
    /// is used"
    fn challenge_hash(&self) -> [u8; 8] {
        let name = self
            .name
            .rsplit_once('\\')
            .map_or(self.name, |(_, user)| user);
        let hash = sha1(&[&self.client, &self.server, name.as_bytes()]);
        hash.first_chunk().copied().unwrap_or_default()
    }

    /// RFC 2759 8.1, GenerateNTResponse.
    pub(crate) fn nt_response(&self, password: &Secret) -> [u8; 24] {
        let hash = password_hash(password);
        let mut keys = Zeroizing::new([0; 21]);
        for (to, from) in keys.iter_mut().zip(hash.iter()) {
            *to = *from;
        }
        let challenge = self.challenge_hash();
        let mut response = [0; 24];
        let blocks = response.as_chunks_mut::<8>().0.iter_mut();
        for (block, key) in blocks.zip(keys.as_chunks::<7>().0) {
            *block = des(key, challenge);
        }
        response
    }

    /// RFC 2759 8.7, GenerateAuthenticatorResponse: what shows the client that the server knows its password.
    pub(crate) fn server_response(&self, password: &Secret, nt_response: &[u8; 24]) -> String {
        const MAGIC: [&[u8]; 2] = [
            b"Magic server to client signing constant",
            b"Pad to make it do more than one iteration",
        ];
        let hash = md4(password_hash(password).as_slice());
        let first = sha1(&[hash.as_slice(), nt_response, MAGIC[0]]);
        let digest = sha1(&[first.as_slice(), &self.challenge_hash(), MAGIC[1]]);
        digest.iter().map(|octet| format!("{octet:02X}")).collect()
    }

    /// The MSK: RFC 3079 3.4's keys of 128 bits, the one for what the client sends before the other, and zeros behind
    /// them, since IKE's has 64 octets.
    pub(crate) fn msk(password: &Secret, nt_response: &[u8; 24]) -> Secret {
        let master = master_key(password, nt_response);
        let mut msk = Zeroizing::new(vec![0; 64]);
        let keys = [FROM_CLIENT, TO_CLIENT].map(|magic| start_key(&master, magic));
        for (to, from) in msk.iter_mut().zip(keys.iter().flat_map(|key| key.iter())) {
            *to = *from;
        }
        Secret::from(msk.as_slice())
    }
}

const FROM_CLIENT: &[u8] =
    b"On the client side, this is the send key; on the server side, it is the receive key.";
const TO_CLIENT: &[u8] =
    b"On the client side, this is the receive key; on the server side, it is the send key.";

/// RFC 3079 3.4, GetMasterKey.
fn master_key(password: &Secret, nt_response: &[u8; 24]) -> Hash {
    let hash = md4(password_hash(password).as_slice());
    let whole = sha1(&[hash.as_slice(), nt_response, b"This is the MPPE Master Key"]);
    Zeroizing::new(whole.first_chunk().copied().unwrap_or_default())
}

/// RFC 3079 3.4, GetAsymmetricStartKey, of 128 bits.
fn start_key(master: &Hash, magic: &[u8]) -> Hash {
    let whole = sha1(&[master.as_slice(), &[0; 40], magic, &[0xf2; 40]]);
    Zeroizing::new(whole.first_chunk().copied().unwrap_or_default())
}

/// RFC 2759 8.6, DesEncrypt: a key of 56 bits, each seven of which an octet gets, before a parity bit that does not matter.
fn des(key: &[u8; 7], block: [u8; 8]) -> [u8; 8] {
    let bits = key
        .iter()
        .fold(0_u64, |bits, octet| bits << 8 | u64::from(*octet));
    let mut spread = Zeroizing::new([0_u8; 8]);
    for (place, octet) in (0..8_u32).zip(spread.iter_mut()) {
        let seven = bits >> (49 - 7 * place) & 0x7f;
        *octet = (seven << 1) as u8;
    }
    let mut block = block.into();
    des::Des::new(&(*spread).into()).encrypt_block(&mut block);
    block.into()
}

/// A message of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerMessage {
    /// It challenges.
    Challenge { id: u8, challenge: [u8; 16] },
    /// It is content, and this shows that it knows the password.
    Success { id: u8, response: String },
    /// It is not.
    Failure { id: u8 },
}

/// A message of the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientMessage {
    /// Its answer to the challenge.
    Response {
        id: u8,
        challenge: [u8; 16],
        response: [u8; 24],
        name: String,
    },
    /// It is content, too.
    Success,
    /// It has heard that it failed.
    Failure,
}

/// The code, the number and the length of a message, and what follows.
fn message(code: u8, id: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let [high, low] = u16::try_from(4 + body.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    [&[code, id, high, low], body.as_slice()].concat()
}

/// What of a message follows its code, its number and its length, which must be right.
fn body(data: &[u8]) -> Option<(u8, u8, &[u8])> {
    let (&[code, id, high, low], body) = data.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    (len == data.len()).then_some((code, id, body))
}

fn name(octets: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(octets).ok()?;
    (text.len() <= LONGEST_NAME).then(|| text.to_owned())
}

impl ServerMessage {
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let (code, id, body) = body(data)?;
        match code {
            CHALLENGE => {
                let (&16, rest) = body.split_first()? else {
                    return None;
                };
                let challenge = *rest.first_chunk()?;
                Some(Self::Challenge { id, challenge })
            }
            SUCCESS => {
                let response = std::str::from_utf8(body.get(..42)?).ok()?;
                let response = response.strip_prefix("S=")?.to_ascii_uppercase();
                Some(Self::Success { id, response })
            }
            FAILURE => Some(Self::Failure { id }),
            _ => None,
        }
    }

    /// The octets; `server` is what it calls itself.
    pub(crate) fn write(&self, server: &str) -> Vec<u8> {
        match self {
            Self::Challenge { id, challenge } => {
                message(CHALLENGE, *id, &[&[16], challenge, server.as_bytes()])
            }
            Self::Success { id, response } => {
                message(SUCCESS, *id, &[b"S=", response.as_bytes(), b" M=OK"])
            }
            // RFC 2759 6: 691 is ERROR_AUTHENTICATION_FAILURE, and R=0 allows no second attempt
            Self::Failure { id } => {
                let zeros = [b'0'; 32];
                message(
                    FAILURE,
                    *id,
                    &[b"E=691 R=0 C=", &zeros, b" V=3 M=Authentication failed"],
                )
            }
        }
    }
}

impl ClientMessage {
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        match data {
            // draft-kamath 2.4 and 2.6: these are of their code alone
            [SUCCESS] => return Some(Self::Success),
            [FAILURE] => return Some(Self::Failure),
            _ => {}
        }
        let (code, id, body) = body(data)?;
        let (&RESPONSE_LEN, rest) = body.split_first()? else {
            return None;
        };
        let (challenge, rest) = rest.split_first_chunk::<16>()?;
        let (_, rest) = rest.split_first_chunk::<8>()?;
        let (response, rest) = rest.split_first_chunk::<24>()?;
        let (_flags, rest) = rest.split_first()?;
        (code == RESPONSE).then_some(())?;
        Some(Self::Response {
            id,
            challenge: *challenge,
            response: *response,
            name: name(rest)?,
        })
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        match self {
            Self::Response {
                id,
                challenge,
                response,
                name,
            } => {
                let parts: [&[u8]; 6] = [
                    &[RESPONSE_LEN],
                    challenge,
                    &[0; 8],
                    response,
                    &[0],
                    name.as_bytes(),
                ];
                message(RESPONSE, *id, &parts)
            }
            Self::Success => vec![SUCCESS],
            Self::Failure => vec![FAILURE],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn octets<const N: usize>(hex: &str) -> [u8; N] {
        let digits: String = hex.split_whitespace().collect();
        let octet = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(octet)
    }

    /// RFC 2759 9.2 and RFC 3079 3.5.3.
    fn example() -> (Exchange<'static>, Secret) {
        let exchange = Exchange {
            server: octets("5B5D7C7D7B3F2F3E3C2C602132262628"),
            client: octets("21402324255E262A28295F2B3A337C7E"),
            name: "User",
        };
        (exchange, Secret::from(&b"clientPass"[..]))
    }

    #[test]
    fn the_responses_are_those_of_the_standard() {
        let (exchange, password) = example();
        assert_eq!(exchange.challenge_hash(), octets("D02E4386BCE91226"));
        let hash = password_hash(&password);
        assert_eq!(*hash, octets("44EBBA8D5312B8D611474411F56989AE"));
        assert_eq!(
            *md4(hash.as_slice()),
            octets("41C00C584BD2D91C4017A2A12FA59F3F")
        );
        let response = exchange.nt_response(&password);
        let expected = octets("82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF");
        assert_eq!(response, expected);
        assert_eq!(
            exchange.server_response(&password, &response),
            "407A5589115FD0D6209F510FE9C04566932CDA56"
        );
        let domain = Exchange {
            name: "EXAMPLE\\User",
            ..exchange
        };
        assert_eq!(domain.nt_response(&password), expected);
    }

    #[test]
    fn the_keys_are_those_of_the_standard() {
        let (exchange, password) = example();
        let response = exchange.nt_response(&password);
        let master = master_key(&password, &response);
        assert_eq!(*master, octets("FDECE3717A8C838CB388E527AE3CDD31"));
        // RFC 3079 3.5.3 shows what the server sends with.
        let send = start_key(&master, TO_CLIENT);
        assert_eq!(*send, octets("8B7CDC149B993A1BA118CB153F56DCCB"));
        let msk = Exchange::msk(&password, &response);
        assert_eq!(msk.expose().len(), 64);
        assert_eq!(msk.expose()[16..32], *send);
        assert_eq!(msk.expose()[32..], [0; 32]);
    }

    fn server_message() -> impl Strategy<Value = ServerMessage> {
        prop_oneof![
            (any::<u8>(), any::<[u8; 16]>())
                .prop_map(|(id, challenge)| ServerMessage::Challenge { id, challenge }),
            (any::<u8>(), "[0-9A-F]{40}")
                .prop_map(|(id, response)| ServerMessage::Success { id, response }),
            any::<u8>().prop_map(|id| ServerMessage::Failure { id }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(
            server in server_message(),
            (id, challenge, response) in any::<(u8, [u8; 16], [[u8; 8]; 3])>(),
            name in "\\PC{0,60}",
        ) {
            prop_assert_eq!(ServerMessage::read(&server.write("gw")), Some(server));
            let response = response.concat().try_into().unwrap();
            let client = ClientMessage::Response { id, challenge, response, name };
            prop_assert_eq!(ClientMessage::read(&client.write()), Some(client));
        }

        #[test]
        fn any_octets_are_survived(octets in vec(any::<u8>(), 0..120)) {
            let _ = ServerMessage::read(&octets);
            if let Some(read) = ClientMessage::read(&octets) {
                prop_assert_eq!(ClientMessage::read(&read.write()), Some(read));
            }
        }
    }
}

//! Properties of the wire format: no octets make a parser panic, and what is emitted reads back.

use std::net::IpAddr;

use esplanade_ike::config::{Identity, TrafficSelector};
use esplanade_ike::wire::Malformed;
use esplanade_ike::wire::header::{ExchangeType, Header, VERSION};
use esplanade_ike::wire::message::Message;
use esplanade_ike::wire::payload::{Identification, Notify, Payload};
use esplanade_ike::wire::proposal::{Attribute, Proposal, Transform};
use proptest::collection::vec;
use proptest::prelude::*;

fn octets(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..max)
}

fn identification() -> impl Strategy<Value = Identification> {
    (any::<u8>(), octets(40), any::<[u8; 3]>()).prop_map(|(kind, data, reserved)| Identification {
        identity: Identity::from_wire(kind, &data),
        reserved,
    })
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        any::<u16>().prop_map(Attribute::KeyLength),
        (15..0x8000_u16, octets(9)).prop_map(|(kind, value)| Attribute::Unknown { kind, value }),
        (0x800f..=u16::MAX, any::<[u8; 2]>()).prop_map(|(kind, value)| Attribute::Unknown {
            kind,
            value: value.to_vec()
        }),
    ]
}

fn proposal() -> impl Strategy<Value = Proposal> {
    let transform =
        (any::<u8>(), any::<u16>(), vec(attribute(), 0..3)).prop_map(|(kind, id, attributes)| {
            Transform {
                kind,
                id,
                attributes,
            }
        });
    (any::<u8>(), any::<u8>(), octets(9), vec(transform, 0..12)).prop_map(
        |(number, protocol, spi, transforms)| Proposal {
            number,
            protocol,
            spi,
            transforms,
        },
    )
}

fn selector() -> impl Strategy<Value = TrafficSelector> {
    let addresses = prop_oneof![
        any::<(u32, u32)>()
            .prop_map(|(a, b)| { (IpAddr::V4(a.min(b).into()), IpAddr::V4(a.max(b).into())) }),
        any::<(u128, u128)>()
            .prop_map(|(a, b)| { (IpAddr::V6(a.min(b).into()), IpAddr::V6(a.max(b).into())) }),
    ];
    (
        proptest::option::of(1..=u8::MAX),
        any::<(u16, u16)>(),
        addresses,
    )
        .prop_map(|(protocol, ports, (first, last))| TrafficSelector {
            protocol,
            ports,
            first,
            last,
        })
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        vec(proposal(), 1..4).prop_map(Payload::SecurityAssociation),
        (any::<u16>(), octets(40)).prop_map(|(method, data)| Payload::KeyExchange { method, data }),
        identification().prop_map(Payload::IdInitiator),
        identification().prop_map(Payload::IdResponder),
        (any::<u8>(), octets(40))
            .prop_map(|(encoding, data)| Payload::Certificate { encoding, data }),
        (any::<u8>(), octets(40))
            .prop_map(|(encoding, data)| Payload::CertificateRequest { encoding, data }),
        (any::<u8>(), octets(40))
            .prop_map(|(method, data)| Payload::Authentication { method, data }),
        vec(any::<u8>(), 16..=256).prop_map(Payload::Nonce),
        (any::<u8>(), octets(9), any::<u16>(), octets(40)).prop_map(
            |(protocol, spi, kind, data)| Payload::Notify(Notify {
                protocol,
                spi,
                kind,
                data
            })
        ),
        Just(Payload::DeleteIke),
        (2..=3_u8, vec(any::<u32>(), 0..9))
            .prop_map(|(protocol, spis)| Payload::DeleteChildren { protocol, spis }),
        octets(40).prop_map(Payload::Vendor),
        vec(selector(), 0..9).prop_map(Payload::TsInitiator),
        vec(selector(), 0..9).prop_map(Payload::TsResponder),
        (any::<u8>(), vec((0..0x8000_u16, octets(9)), 0..5))
            .prop_map(|(kind, attributes)| Payload::Configuration { kind, attributes }),
        octets(40).prop_map(Payload::Eap),
        // 53 is the fragment of an encrypted payload (RFC 7383 2.5), which is no payload of a chain.
        (prop_oneof![49..53_u8, 54..=u8::MAX], octets(40))
            .prop_map(|(kind, data)| Payload::Unknown { kind, data }),
    ]
}

fn header() -> impl Strategy<Value = Header> {
    (
        1..=u64::MAX,
        any::<u64>(),
        any::<[bool; 3]>(),
        any::<u32>(),
        0..6_usize,
    )
        .prop_map(
            |(
                initiator_spi,
                responder_spi,
                [initiator, response, higher_version],
                message_id,
                e,
            )| {
                Header {
                    initiator_spi,
                    responder_spi,
                    next_payload: 0,
                    version: VERSION,
                    exchange: [
                        ExchangeType::IkeSaInit,
                        ExchangeType::IkeAuth,
                        ExchangeType::CreateChildSa,
                        ExchangeType::IkeIntermediate,
                        ExchangeType::IkeFollowupKe,
                        ExchangeType::Other(45),
                    ][e],
                    initiator,
                    response,
                    higher_version,
                    message_id,
                }
            },
        )
}

proptest! {
    #[test]
    fn any_octets_are_read_without_panic(datagram in octets(400)) {
        let _ = Message::parse(&datagram);
    }

    #[test]
    fn damaged_messages_are_read_without_panic(
        header in header(),
        payloads in vec(payload(), 0..6),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = Message::emit(header, &payloads);
        let mut damaged = whole.clone();
        let at = at.index(damaged.len());
        damaged[at] = value;
        let _ = Message::parse(&damaged);
        let mut short = whole[..cut.index(whole.len())].to_vec();
        let len = u32::try_from(short.len()).unwrap().to_be_bytes();
        if let Some(field) = short.get_mut(24..28) {
            field.copy_from_slice(&len);
        }
        let _ = Message::parse(&short);
    }

    #[test]
    fn what_is_emitted_reads_back(header in header(), payloads in vec(payload(), 0..8)) {
        let message = Message::parse(&Message::emit(header, &payloads)).unwrap();
        prop_assert_eq!(&message.payloads, &payloads);
        prop_assert_eq!(Header { next_payload: 0, ..message.header }, header);
        prop_assert_eq!(message.encrypted, None);
    }
}

/// RFC 7296 2.5: an unknown payload is skipped, unless it is marked critical.
#[test]
fn unknown_critical_payloads_are_refused() {
    let header = Header {
        initiator_spi: 1,
        responder_spi: 0,
        next_payload: 0,
        version: VERSION,
        exchange: ExchangeType::IkeSaInit,
        initiator: true,
        response: false,
        higher_version: false,
        message_id: 0,
    };
    let mut datagram = Message::emit(
        header,
        &[Payload::Unknown {
            kind: 200,
            data: vec![1],
        }],
    );
    assert!(Message::parse(&datagram).is_ok());
    datagram[29] |= 0x80;
    assert_eq!(
        Message::parse(&datagram),
        Err(Malformed::UnknownCritical(200))
    );
}

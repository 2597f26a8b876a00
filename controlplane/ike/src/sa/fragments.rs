//! Fragments of IKE messages (RFC 7383): how large ours are, and how the peer's are put together
//! again within bounds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::IkeSa;
use super::init::NAT_T_PORT;
use crate::config::DEFAULT_FRAGMENT_SIZE;
use crate::counters::Counter;
use crate::event::Path;
use crate::gateway::Gateway;
use crate::wire::Malformed;
use crate::wire::header::Header;
use crate::wire::message::{Encrypted, Message, unfragmented_head};
use crate::wire::payload::{Fragment, Payload, parse_chain};

/// Octets of the UDP header.
const UDP_LEN: usize = 8;
/// Octets of the non-ESP marker on port 4500 (RFC 3948 2.2).
const MARKER_LEN: usize = 4;

/// What was protected in a message, and what stood before it.
pub(super) struct Opened {
    /// The octets to the end of the Encrypted payload's generic header, as they are in an
    /// unfragmented message without initialization vector, padding and check value: what RFC 9242
    /// 3.3.2 calls IntAuth_A.
    pub(super) head: Vec<u8>,
    /// The type of the first payload inside.
    pub(super) first: u8,
    /// The payloads.
    pub(super) inner: Vec<u8>,
}

impl Opened {
    /// The payloads as values.
    pub(super) fn payloads(&self) -> Result<Vec<Payload>, Malformed> {
        let chain = parse_chain(self.first, &self.inner)?;
        if chain.encrypted.is_some() {
            return Err(Malformed::Surplus);
        }
        Ok(chain.payloads)
    }
}

/// A message of the peer's of which fragments are there and others are not.
pub(super) struct Reassembly {
    id: u32,
    total: u16,
    parts: BTreeMap<u16, Vec<u8>>,
    octets: usize,
    /// The datagram of the first fragment up to its ciphertext, and the type of its first payload.
    start: Option<(Vec<u8>, u8)>,
    /// When what is there is given up.
    pub(super) expires: Instant,
}

impl Reassembly {
    fn new(id: u32, total: u16, expires: Instant) -> Self {
        Self {
            id,
            total,
            parts: BTreeMap::new(),
            octets: 0,
            start: None,
            expires,
        }
    }

    fn is_complete(&self) -> bool {
        self.parts.len() == usize::from(self.total)
    }

    fn assemble(self) -> Option<Opened> {
        let (start, first) = self.start?;
        let inner: Vec<u8> = self.parts.into_values().flatten().collect();
        Some(Opened {
            head: unfragmented_head(&start, true, inner.len()),
            first,
            inner,
        })
    }
}

impl IkeSa {
    /// Octets of the longest IKE message that we send in one piece; `None` where the peer knows no
    /// fragments.
    ///
    /// RFC 7383 2.5.1: "The responder in the exchange may use the maximum size of the received IKE
    /// Fragment message IP datagrams as a threshold": ours does so while it does not know the peer.
    pub(super) fn fragment_limit(&self) -> Option<usize> {
        if self.peer.is_none() && self.longest_fragment > 0 {
            return Some(self.longest_fragment);
        }
        let size = self
            .peer
            .as_ref()
            .map_or(DEFAULT_FRAGMENT_SIZE, |peer| peer.fragment_size);
        let ip = match self.path.remote.ip() {
            IpAddr::V4(_) => 20,
            IpAddr::V6(_) => 40,
        };
        let marker = if self.path.local.port() == NAT_T_PORT {
            MARKER_LEN
        } else {
            0
        };
        self.fragmentation
            .then(|| usize::from(size).saturating_sub(ip + UDP_LEN + marker))
    }

    /// Opens a message in one piece.
    pub(super) fn open(
        &self,
        datagram: &[u8],
        message: &Message,
        encrypted: Encrypted,
    ) -> Option<Opened> {
        let inner = self.decrypt(datagram, &message.header, encrypted)?;
        let start = datagram.get(..encrypted.body_at)?;
        Some(Opened {
            head: unfragmented_head(start, false, inner.len()),
            first: encrypted.first,
            inner,
        })
    }

    /// A request that has been answered may be from before the keys changed.
    fn decrypt(&self, datagram: &[u8], header: &Header, encrypted: Encrypted) -> Option<Vec<u8>> {
        let repeated = !header.response && header.message_id.wrapping_add(1) == self.expected_id;
        let previous = self.previous.as_deref().filter(|_| repeated);
        let keys = previous.or(self.keys.as_ref())?;
        keys.open(datagram, encrypted).ok()
    }

    /// Takes a fragment; gives the whole message if it was the last that was missing.
    pub(super) fn take_fragment(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        path: Path,
        datagram: &[u8],
        message: &Message,
        (encrypted, fragment): (Encrypted, Fragment),
    ) -> Option<Opened> {
        if !self.fragmentation {
            gw.count(Counter::FragmentUnexpected);
            return None;
        }
        if !fragment.is_valid() {
            gw.count(Counter::FragmentInvalid);
            return None;
        }
        let (id, response) = (message.header.message_id, message.header.response);
        if !response && id.wrapping_add(1) == self.expected_id {
            self.repeat_for_fragment(gw, path, datagram, message, (encrypted, fragment));
            return None;
        }
        let awaited = if response {
            self.awaits_response(&message.header)
        } else {
            id == self.expected_id && !self.is_over()
        };
        if !awaited {
            gw.count(Counter::MessageIdWindow);
            return None;
        }
        if let Err(counter) = self.admit_fragment(gw, id, response, fragment) {
            gw.count(counter);
            return None;
        }
        let Some(inner) = self.decrypt(datagram, &message.header, encrypted) else {
            gw.count(Counter::NotAuthentic);
            return None;
        };
        gw.count(Counter::FragmentReceived);
        self.longest_fragment = self.longest_fragment.max(datagram.len());
        let start = datagram.get(..encrypted.body_at)?.to_vec();
        self.store_fragment(gw, now, message, fragment, (start, encrypted.first), inner)
    }

    /// RFC 7383 2.6.1: a fragment of a request that has been answered "MUST only trigger a
    /// retransmission of the response message (fragmented or not) if the Fragment Number field in
    /// the received fragment is set to 1; otherwise, it MUST be ignored."
    fn repeat_for_fragment(
        &self,
        gw: &mut Gateway,
        path: Path,
        datagram: &[u8],
        message: &Message,
        (encrypted, fragment): (Encrypted, Fragment),
    ) {
        if fragment.number != 1 {
            return gw.count(Counter::FragmentDuplicate);
        }
        if self.decrypt(datagram, &message.header, encrypted).is_none() {
            return gw.count(Counter::NotAuthentic);
        }
        self.repeat_response(gw, path);
    }

    /// RFC 7383 2.6: what is checked of a fragment before its integrity.
    fn admit_fragment(
        &self,
        gw: &Gateway,
        id: u32,
        response: bool,
        fragment: Fragment,
    ) -> Result<(), Counter> {
        if fragment.total > gw.settings.fragment_limit {
            return Err(Counter::FragmentOversized);
        }
        let Some(before) = self.reassembly(response).filter(|r| r.id == id) else {
            return Ok(());
        };
        if fragment.total < before.total {
            return Err(Counter::FragmentInconsistent);
        }
        if fragment.total == before.total && before.parts.contains_key(&fragment.number) {
            return Err(Counter::FragmentDuplicate);
        }
        Ok(())
    }

    fn store_fragment(
        &mut self,
        gw: &mut Gateway,
        now: Instant,
        message: &Message,
        fragment: Fragment,
        start: (Vec<u8>, u8),
        inner: Vec<u8>,
    ) -> Option<Opened> {
        let (id, response) = (message.header.message_id, message.header.response);
        let expires = now + gw.settings.reassembly_timeout;
        // RFC 7383 2.6: if Total Fragments is greater than that of those in the queue, "the receiver
        // MUST discard all received fragments and start the reassembly process over".
        let same = |r: &Reassembly| r.id == id && r.total == fragment.total;
        let place = self.reassembly_mut(response);
        let mut reassembly = match place.take() {
            Some(before) if same(&before) => before,
            _ => Box::new(Reassembly::new(id, fragment.total, expires)),
        };
        reassembly.octets += inner.len();
        if reassembly.octets > gw.settings.reassembly_limit {
            // What is there is given up with it: the message cannot become whole any more.
            gw.count(Counter::FragmentOversized);
            return None;
        }
        reassembly.parts.insert(fragment.number, inner);
        if fragment.number == 1 {
            reassembly.start = Some(start);
        }
        if reassembly.is_complete() {
            return reassembly.assemble();
        }
        *place = Some(reassembly);
        None
    }

    fn reassembly(&self, response: bool) -> Option<&Reassembly> {
        if response {
            self.response_parts.as_deref()
        } else {
            self.request_parts.as_deref()
        }
    }

    fn reassembly_mut(&mut self, response: bool) -> &mut Option<Box<Reassembly>> {
        if response {
            &mut self.response_parts
        } else {
            &mut self.request_parts
        }
    }

    /// When the first of the incomplete messages is given up.
    pub(super) fn reassembly_due(&self) -> Option<Instant> {
        let parts = [&self.request_parts, &self.response_parts];
        parts.into_iter().flatten().map(|r| r.expires).min()
    }

    /// RFC 7383 2.6: what does not become whole within a timeout interval is discarded.
    pub(super) fn expire_fragments(&mut self, gw: &mut Gateway, now: Instant) {
        for parts in [&mut self.request_parts, &mut self.response_parts] {
            if parts.take_if(|r| r.expires <= now).is_some() {
                gw.count(Counter::ReassemblyExpired);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::SpiAllocator;
    use crate::config::{Secret, Settings};
    use crate::crypto::keys::{Binding, IkeKeys};
    use crate::gateway::SaKey;
    use crate::provider::SystemProvider;
    use crate::wire::header::ExchangeType;
    use crate::wire::payload::emit_chain;

    struct NoSpis;

    impl SpiAllocator for NoSpis {
        fn allocate(&mut self) -> Option<u32> {
            None
        }

        fn release(&mut self, _: u32) {}
    }

    struct Bench {
        gw: Gateway,
        /// Who takes the fragments: a responder that waits for the request with ID 0.
        sa: IkeSa,
        /// The keys of the other end.
        keys: IkeKeys,
        now: Instant,
        path: Path,
    }

    impl Bench {
        fn new(settings: Settings) -> Self {
            let (now, provider) = (Instant::now(), Arc::new(SystemProvider));
            let path = Path {
                local: "192.0.2.1:500".parse().unwrap(),
                remote: "192.0.2.2:500".parse().unwrap(),
            };
            let binding = Binding {
                nonce_i: vec![1; 32],
                nonce_r: vec![2; 32],
                spi_i: 1,
                spi_r: 2,
            };
            let keys = |initiator| {
                let suite = "aes256gcm16-sha384-x25519".parse().unwrap();
                IkeKeys::first(suite, &binding, &Secret::default(), initiator).unwrap()
            };
            let mut sa = IkeSa::new(SaKey(1), false, 2, path, now);
            (sa.remote_spi, sa.keys, sa.fragmentation) = (1, Some(keys(false)), true);
            Self {
                gw: Gateway::new(settings, provider, Box::new(NoSpis), [7; 32]),
                sa,
                keys: keys(true),
                now,
                path,
            }
        }

        /// A request with this ID and 1000 octets of payload, in fragments of at most `limit` octets.
        fn request(&mut self, id: u32, limit: usize) -> Vec<Vec<u8>> {
            let header = Header {
                initiator: true,
                ..self.sa.header(ExchangeType::IkeAuth, false, id)
            };
            let mut rng = ChaCha20Rng::from_seed([1; 32]);
            self.keys
                .seal(header, &payloads(), Some(limit), &mut rng)
                .unwrap()
        }

        fn take(&mut self, datagram: &[u8]) -> Option<Opened> {
            let message = Message::parse(datagram).unwrap();
            let encrypted = message.encrypted.unwrap();
            let parts = (encrypted, encrypted.fragment.unwrap());
            let (now, path) = (self.now, self.path);
            self.sa
                .take_fragment(&mut self.gw, now, path, datagram, &message, parts)
        }

        /// Takes a fragment that must not make a message whole, and says what was counted for it.
        fn refuse(&mut self, datagram: &[u8]) -> Counter {
            let before = self.gw.counters.clone();
            assert!(self.take(datagram).is_none());
            let counted = |&&c: &&Counter| self.gw.counters.get(c) != before.get(c);
            *Counter::ALL.iter().find(counted).expect("a counter")
        }
    }

    fn payloads() -> [Payload; 1] {
        [Payload::Vendor(
            (0..1000_u32)
                .flat_map(u32::to_be_bytes)
                .take(1000)
                .collect(),
        )]
    }

    fn renumbered(fragment: &[u8], number: u16, total: u16) -> Vec<u8> {
        let mut octets = fragment.to_vec();
        octets[32..34].copy_from_slice(&number.to_be_bytes());
        octets[34..36].copy_from_slice(&total.to_be_bytes());
        octets
    }

    #[test]
    fn fragments_in_any_order_make_the_message() {
        for limit in [150, 576, 900] {
            let mut bench = Bench::new(Settings::default());
            let mut fragments = bench.request(0, limit);
            assert!(fragments.len() > 1);
            assert!(fragments.iter().all(|f| f.len() <= limit));
            fragments.rotate_left(1);
            fragments.reverse();
            let last = fragments.pop().unwrap();
            for fragment in &fragments {
                assert_eq!(bench.refuse(fragment), Counter::FragmentReceived);
            }
            let opened = bench.take(&last).unwrap();
            let (first, inner) = emit_chain(&payloads());
            assert_eq!((opened.first, &opened.inner), (first, &inner));
            // RFC 9242 3.3.2: as if it had come unfragmented
            let len = u32::try_from(32 + inner.len()).unwrap().to_be_bytes();
            assert_eq!((opened.head[16], &opened.head[24..28]), (46, &len[..]));
            let len = u16::try_from(4 + inner.len()).unwrap().to_be_bytes();
            assert_eq!((opened.head.len(), &opened.head[30..]), (32, &len[..]));
            assert!(bench.sa.reassembly_due().is_none());
        }
    }

    #[test]
    fn a_message_in_one_piece_has_the_same_head() {
        let mut bench = Bench::new(Settings::default());
        let whole = bench.request(0, 2000);
        let message = Message::parse(&whole[0]).unwrap();
        let opened = bench
            .sa
            .open(&whole[0], &message, message.encrypted.unwrap())
            .unwrap();
        let mut assembled = None;
        for fragment in bench.request(0, 300) {
            assembled = bench.take(&fragment);
        }
        let assembled = assembled.unwrap();
        assert_eq!(
            (opened.head, opened.inner),
            (assembled.head, assembled.inner)
        );
    }

    #[test]
    fn bad_fragments_are_dropped_by_name() {
        let mut bench = Bench::new(Settings::default());
        let fragments = bench.request(0, 300);
        let total = u16::try_from(fragments.len()).unwrap();
        assert_eq!(bench.refuse(&fragments[1]), Counter::FragmentReceived);
        assert_eq!(bench.refuse(&fragments[1]), Counter::FragmentDuplicate);
        for (number, total) in [(0, total), (1, 0), (total + 1, total)] {
            let bad = renumbered(&fragments[0], number, total);
            assert_eq!(bench.refuse(&bad), Counter::FragmentInvalid);
        }
        let fewer = renumbered(&fragments[0], 1, total - 1);
        assert_eq!(bench.refuse(&fewer), Counter::FragmentInconsistent);
        // The numbers are authenticated, and so is each fragment: none of these empties the queue.
        let more = renumbered(&fragments[0], 1, total + 1);
        assert_eq!(bench.refuse(&more), Counter::NotAuthentic);
        let moved = renumbered(&fragments[1], 3, total);
        assert_eq!(bench.refuse(&moved), Counter::NotAuthentic);
        let early = bench.request(1, 300);
        assert_eq!(bench.refuse(&early[0]), Counter::MessageIdWindow);
        let (last, rest) = fragments.split_last().unwrap();
        for fragment in rest.iter().filter(|f| **f != fragments[1]) {
            assert_eq!(bench.refuse(fragment), Counter::FragmentReceived);
        }
        assert!(bench.take(last).is_some());
        bench.sa.fragmentation = false;
        assert_eq!(bench.refuse(last), Counter::FragmentUnexpected);
    }

    /// RFC 7383 2.6: a larger total starts over, and nothing of the older division is mixed in.
    #[test]
    fn a_finer_division_starts_over() {
        let mut bench = Bench::new(Settings::default());
        let (coarse, fine) = (bench.request(0, 600), bench.request(0, 200));
        assert_eq!(bench.refuse(&coarse[0]), Counter::FragmentReceived);
        assert_eq!(bench.refuse(&fine[0]), Counter::FragmentReceived);
        assert_eq!(bench.refuse(&coarse[1]), Counter::FragmentInconsistent);
        let (last, rest) = fine.split_last().unwrap();
        for fragment in &rest[1..] {
            assert_eq!(bench.refuse(fragment), Counter::FragmentReceived);
        }
        let opened = bench.take(last).unwrap();
        assert_eq!(opened.inner, emit_chain(&payloads()).1);
    }

    #[test]
    fn what_is_too_large_or_never_ends_is_given_up() {
        let mut bench = Bench::new(Settings {
            fragment_limit: 4,
            reassembly_limit: 600,
            ..Settings::default()
        });
        let many = bench.request(0, 200);
        assert_eq!(bench.refuse(&many[0]), Counter::FragmentOversized);
        let large = bench.request(0, 400);
        assert!(large.len() <= 4);
        assert_eq!(bench.refuse(&large[0]), Counter::FragmentReceived);
        let held = |bench: &Bench| bench.sa.request_parts.as_ref().map(|parts| parts.octets);
        assert!(held(&bench).is_some_and(|octets| octets <= 400));
        bench.refuse(&large[1]);
        assert_eq!(held(&bench), None, "what cannot become whole is not kept");
        assert_eq!(bench.gw.counters.get(Counter::FragmentOversized), 2);

        bench.refuse(&large[2]);
        let timeout = bench.gw.settings.reassembly_timeout;
        assert_eq!(bench.sa.reassembly_due(), Some(bench.now + timeout));
        bench.now += timeout - Duration::from_millis(1);
        bench.sa.expire_fragments(&mut bench.gw, bench.now);
        // Another fragment puts the end off for nobody.
        assert_eq!(bench.refuse(&large[2]), Counter::FragmentDuplicate);
        bench.now += Duration::from_millis(1);
        bench.sa.expire_fragments(&mut bench.gw, bench.now);
        assert_eq!(bench.sa.reassembly_due(), None);
        assert_eq!(bench.gw.counters.get(Counter::ReassemblyExpired), 1);
    }

    /// RFC 7383 2.6.1: only the first fragment of a repeated request has its response sent again.
    #[test]
    fn a_repeated_request_is_answered_once() {
        let mut bench = Bench::new(Settings::default());
        let fragments = bench.request(0, 300);
        let answer = vec![vec![1; 100], vec![2; 50]];
        (bench.sa.expected_id, bench.sa.cached) = (1, Some(answer.clone()));
        for fragment in fragments.iter().rev() {
            assert!(bench.take(fragment).is_none());
        }
        let sent: Vec<_> = bench.gw.transmits.drain(..).map(|t| t.data).collect();
        assert_eq!(sent, answer);
        assert_eq!(bench.gw.counters.get(Counter::ResponseResent), 1);
        let forged = renumbered(&fragments[1], 1, 2);
        assert_eq!(bench.refuse(&forged), Counter::NotAuthentic);
    }
}

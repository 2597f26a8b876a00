//! From a datagram to the IKE SA that it belongs to, and what is answered where there is none
//! (RFC 7296 2.4, 2.5, 2.6, 2.21.4).

use std::time::Instant;

use super::Endpoint;
use crate::counters::Counter;
use crate::error::Refusal;
use crate::event::Path;
use crate::sa::{InitReply, answer_init};
use crate::wire::Malformed;
use crate::wire::header::{ExchangeType, Header, VERSION};
use crate::wire::message::{Message, Payloads};
use crate::wire::notify;
use crate::wire::payload::Payload;

impl Endpoint {
    pub(super) fn dispatch(&mut self, now: Instant, path: Path, datagram: &[u8]) {
        self.gw.count(Counter::Received);
        let Ok((header, _)) = Header::parse(datagram) else {
            return self.gw.count(Counter::Malformed);
        };
        if header.major() != VERSION >> 4 {
            return self.refuse_version(now, path, header);
        }
        let message = match Message::parse(datagram) {
            Ok(message) => message,
            Err(malformed) => return self.refuse_unreadable(now, path, header, malformed),
        };
        if header.exchange == ExchangeType::IkeSaInit && !header.response {
            return self.dispatch_init(now, path, datagram, &message);
        }
        // RFC 7296 3.1: the Initiator flag tells whose SPI is whose
        let spi = if header.initiator {
            header.responder_spi
        } else {
            header.initiator_spi
        };
        match self.sas.by_spi(spi) {
            Some(key) => {
                self.with(now, key, |sa, gw| {
                    sa.handle(gw, now, path, datagram, &message)
                });
            }
            None => self.refuse_spi(now, path, header),
        }
    }

    /// RFC 7296 2.5: "If an endpoint receives a message with a higher major version number, it
    /// MUST drop the message and SHOULD send an unauthenticated Notify message of type
    /// INVALID_MAJOR_VERSION containing the highest (closest) version number it supports."
    fn refuse_version(&mut self, now: Instant, path: Path, header: Header) {
        self.gw.count(Counter::OtherVersion);
        if header.major() > VERSION >> 4 && !header.response {
            let refusal = Payload::notify(notify::INVALID_MAJOR_VERSION, &[VERSION >> 4]);
            self.answer_unprotected(now, path, header, refusal);
        }
    }

    fn refuse_unreadable(&mut self, now: Instant, path: Path, header: Header, why: Malformed) {
        self.gw.count(Counter::Malformed);
        if let Malformed::UnknownCritical(kind) = why
            && !header.response
            && header.exchange == ExchangeType::IkeSaInit
        {
            let refusal = Payload::notify(notify::UNSUPPORTED_CRITICAL_PAYLOAD, &[kind]);
            self.answer_unprotected(now, path, header, refusal);
        }
    }

    /// RFC 7296 2.21.4: "If a response is sent, the response MUST be sent to the IP address and
    /// port from where it came with the same IKE SPIs and the Message ID copied."
    fn refuse_spi(&mut self, now: Instant, path: Path, header: Header) {
        self.gw.count(Counter::UnknownSpi);
        if !header.response {
            let refusal = Payload::notify(notify::INVALID_IKE_SPI, &[]);
            self.answer_unprotected(now, path, header, refusal);
        }
    }

    fn answer_unprotected(&mut self, now: Instant, path: Path, header: Header, refusal: Payload) {
        if self.gw.admit_stranger(now) {
            let header = Header {
                version: VERSION,
                initiator: !header.initiator,
                response: true,
                higher_version: false,
                ..header
            };
            self.gw.transmit(path, Message::emit(header, &[refusal]));
        }
    }

    fn dispatch_init(&mut self, now: Instant, path: Path, datagram: &[u8], message: &Message) {
        let header = message.header;
        if !header.initiator || header.message_id != 0 || message.encrypted.is_some() {
            return self.gw.count(Counter::Unexpected);
        }
        if let Some(key) = self.sas.by_initiator(path.remote, header.initiator_spi)
            && let Some(sa) = self.sas.get(key)
        {
            return sa.repeat_init(&mut self.gw, path, datagram);
        }
        let Some(welcome) = self.gw.peers.welcome(path.local.ip(), path.remote.ip()) else {
            self.gw.count(Counter::Stranger);
            if self.gw.admit_stranger(now) {
                self.gw.refused(None, path, Refusal::UnknownAddress);
            }
            return;
        };
        if self.shutdown_by.is_some() || !self.admit_half_open(now, path, message) {
            return;
        }
        match answer_init(&mut self.gw, now, path, datagram, message, &welcome) {
            InitReply::Open(sa) => {
                self.sas
                    .note_initiator(path.remote, header.initiator_spi, sa.key);
                self.sas.put(*sa);
            }
            InitReply::Refuse(refusal, why) => {
                if let Some(why) = why.filter(|_| self.gw.admit_stranger(now)) {
                    self.gw.refused(Some(&welcome.name), path, why);
                }
                self.answer_init_unprotected(path, header, refusal);
            }
            InitReply::Drop(counter) => self.gw.count(counter),
        }
    }

    /// Whether there is room for one more half-open IKE SA, and the initiator has shown that it
    /// is where it says.
    fn admit_half_open(&mut self, now: Instant, path: Path, message: &Message) -> bool {
        let half_open = self.sas.half_open();
        if half_open >= self.gw.settings.half_open_limit {
            self.gw.count(Counter::HalfOpenLimit);
            return false;
        }
        if self.sas.len() >= self.gw.settings.ike_sa_limit {
            self.gw.count(Counter::SaLimit);
            return false;
        }
        if half_open < self.gw.settings.cookie_threshold {
            return true;
        }
        let (header, payloads) = (message.header, Payloads(&message.payloads));
        let Some(nonce) = payloads.nonce() else {
            self.gw.count(Counter::Malformed);
            return false;
        };
        let spi = header.initiator_spi;
        if let Some(returned) = payloads.notify(notify::COOKIE) {
            if self
                .cookies
                .check(now, &returned.data, nonce, path.remote, spi)
            {
                return true;
            }
            self.gw.count(Counter::CookieWrong);
        }
        self.gw.count(Counter::CookieSent);
        let cookie = self
            .cookies
            .make(now, &mut self.gw.rng, nonce, path.remote, spi);
        let demand = Payload::notify(notify::COOKIE, &cookie);
        self.answer_init_unprotected(path, header, demand);
        false
    }

    /// An answer to IKE_SA_INIT that leaves no state behind.
    fn answer_init_unprotected(&mut self, path: Path, header: Header, answer: Payload) {
        let header = Header {
            initiator: false,
            response: true,
            higher_version: false,
            ..header
        };
        self.gw.transmit(
            path,
            Message::emit(
                Header {
                    version: VERSION,
                    ..header
                },
                &[answer],
            ),
        );
    }
}

//! Stateless cookies against floods of IKE_SA_INIT requests (RFC 7296 2.6).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use rand_chacha::rand_core::Rng;

/// How long a secret makes cookies; the one before is still taken.
const ROTATION: Duration = Duration::from_secs(60);

/// The secrets.
#[derive(Default)]
pub(super) struct Cookies {
    current: Option<Secret>,
    previous: Option<Secret>,
    rotations: u8,
}

struct Secret {
    version: u8,
    key: hmac::Key,
    since: Instant,
}

impl Secret {
    /// RFC 7296 2.6: "Cookie = <VersionIDofSecret> | Hash(Ni | IPi | SPIi | <secret>)"; the port
    /// goes in, too.
    fn cookie(&self, nonce: &[u8], from: SocketAddr, spi: u64) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(nonce);
        context.update(from.to_string().as_bytes());
        context.update(&spi.to_be_bytes());
        [&[self.version], context.sign().as_ref()].concat()
    }
}

impl Cookies {
    /// The cookie that this initiator must return.
    pub(super) fn make(
        &mut self,
        now: Instant,
        rng: &mut dyn Rng,
        nonce: &[u8],
        from: SocketAddr,
        spi: u64,
    ) -> Vec<u8> {
        let fresh = |s: &&Secret| now.saturating_duration_since(s.since) < ROTATION;
        if self.current.as_ref().filter(fresh).is_none() {
            let mut octets = [0; 32];
            rng.fill_bytes(&mut octets);
            self.rotations = self.rotations.wrapping_add(1);
            let key = hmac::Key::new(hmac::HMAC_SHA256, &octets);
            let secret = Secret {
                version: self.rotations,
                key,
                since: now,
            };
            self.previous = self.current.replace(secret);
        }
        self.current
            .as_ref()
            .map(|s| s.cookie(nonce, from, spi))
            .unwrap_or_default()
    }

    /// Whether we made this cookie for this initiator, lately.
    pub(super) fn check(
        &self,
        now: Instant,
        cookie: &[u8],
        nonce: &[u8],
        from: SocketAddr,
        spi: u64,
    ) -> bool {
        let recent = |s: &&Secret| now.saturating_duration_since(s.since) < 2 * ROTATION;
        [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .filter(recent)
            .any(|secret| {
                let expected = secret.cookie(nonce, from, spi);
                aws_lc_rs::constant_time::verify_slices_are_equal(&expected, cookie).is_ok()
            })
    }
}

//! Packets that go one by one, beside the stages: AH in both modes (RFC 4302), ESP in transport mode (RFC 4303 3.1.1), and
//! dummy packets (RFC 4303 2.6). The stages are for ESP's tunnel mode, which is nearly all of the traffic; these share their
//! tables, checks and accounts, and take the engine one job at a time.

pub(super) mod dummies;
pub(super) mod inbound;
pub(super) mod outbound;

//! The RFC 4301 family as pure code: SA, SAD, SPD, ESP, sequence numbers, anti-replay.

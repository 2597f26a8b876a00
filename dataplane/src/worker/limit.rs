//! Rate limits for what the worker says of its own accord: ICMP errors and events.

/// A bucket of tokens that fills with time.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    tokens: u64,
    per_second: u64,
    burst: u64,
    filled_ms: u64,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens that gets `per_second` back.
    pub fn new(per_second: u64, burst: u64) -> Self {
        Self {
            tokens: burst,
            per_second,
            burst,
            filled_ms: 0,
        }
    }

    /// Takes a token, if there is one at this time.
    pub fn take(&mut self, now_ms: u64) -> bool {
        let earned = now_ms.saturating_sub(self.filled_ms) * self.per_second / 1000;
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(self.burst);
            self.filled_ms = now_ms;
        }
        let taken = self.tokens > 0;
        self.tokens -= u64::from(taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_a_burst_and_then_the_rate() {
        let mut bucket = TokenBucket::new(10, 3);
        let granted = |bucket: &mut TokenBucket, ms| (0..50).filter(|_| bucket.take(ms)).count();
        assert_eq!(granted(&mut bucket, 0), 3);
        assert_eq!(granted(&mut bucket, 99), 0);
        assert_eq!(granted(&mut bucket, 200), 2);
        assert_eq!(granted(&mut bucket, 60_000), 3);
    }

    #[test]
    fn asking_often_does_not_starve_it() {
        let mut bucket = TokenBucket::new(10, 1);
        let granted = (0..1000).filter(|ms| bucket.take(*ms)).count();
        assert!((9..=11).contains(&granted), "{granted}");
    }
}

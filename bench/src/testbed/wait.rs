//! Waiting that ends: every wait of the test-bed has a limit and names what it waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A whole demo or bench may be ahead of us.
pub(super) const FOR_ANOTHER_TESTBED: Duration = Duration::from_secs(600);

const PAUSE: Duration = Duration::from_millis(10);

/// Asks again and again until the answer is there; fails when the limit has passed.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("waited {} s in vain for {what}", limit.as_secs_f32());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until a condition holds; fails when the limit has passed.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || Ok(holds().then_some(())))
}

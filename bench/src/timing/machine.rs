//! What this CPU can do: its clock, by a chain of dependent multiplications, and how many blocks of AES and products of
//! GHASH go through its ports in a cycle.
#![allow(
    unsafe_code,
    reason = "the chains are in assembler, or the compiler would shorten them"
)]

use core::arch::asm;
use std::fmt;
use std::time::{Duration, Instant};

use esplanade_crypto::{Algorithm, EngineKind};

/// Measured once.
pub struct Machine {
    /// What the kernel calls the CPU.
    pub name: String,
    /// Bytes of a core's second-level cache.
    pub l2: usize,
    /// Nanoseconds a cycle.
    pub cycle: f64,
    /// Nanoseconds of a round of AES for four blocks, of four 64-bit products in one vector, and of both in the ratio of
    /// GCM with a 128-bit key (10 to 4); `None` without the instructions.
    rates: Option<Rates>,
    /// Nanoseconds that reading the clock adds to a measurement.
    pub clock_reading: f64,
}

struct Rates {
    aes: f64,
    product: f64,
    both: f64,
}

impl Machine {
    pub fn measure() -> Self {
        let vectors = EngineKind::available().contains(&EngineKind::Vaes512);
        Self {
            name: name(),
            l2: l2().unwrap_or(2 << 20),
            // IMUL takes three cycles on every x86-64 of the last ten years.
            cycle: best(1_000, || multiply_chain(1_000)) / 12.0,
            rates: vectors.then(|| Rates {
                aes: best(1_000, || rounds(1_000)) / 8.0,
                product: best(1_000, || products(1_000)) / 8.0,
                both: best(1_000, || rounds_and_products(1_000)) / 14.0,
            }),
            clock_reading: best(1, || {}),
        }
    }

    #[cfg(test)]
    pub fn of_one_gigahertz() -> Self {
        Self {
            name: "a test".to_owned(),
            l2: 1 << 20,
            cycle: 1.0,
            rates: None,
            clock_reading: 0.0,
        }
    }

    /// The nanoseconds below which no packet can be sealed or opened: (blocks + 1) times the rounds for AES, with the tag's
    /// block, and 4 (blocks + 2) products for GHASH, with additional data and lengths, four blocks to a vector, each at
    /// its measured rate where the two share their ports.
    pub fn bound(&self, algorithm: Algorithm, length: usize) -> Option<f64> {
        let rates = self.rates.as_ref()?;
        let Algorithm::AesGcm(key, _) = algorithm else {
            return None;
        };
        let blocks = length.div_ceil(16) as f64;
        let rounds = key.rounds() as f64;
        let (aes, products) = ((blocks + 1.0) * rounds / 4.0, blocks + 2.0);
        Some(
            ((aes + products) * rates.both)
                .max(aes * rates.aes)
                .max(products * rates.product),
        )
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, clock, l2) = (&self.name, 1.0 / self.cycle, self.l2 >> 10);
        write!(f, "{name}; clock {clock:.2} GHz; L2 {l2} KiB")?;
        if let Some(rates) = &self.rates {
            let cycles = |nanoseconds: f64| nanoseconds / self.cycle;
            write!(
                f,
                "; cycles a vector of 512 bits: AES round {:.2}, product {:.2}, each of both together {:.2}",
                cycles(rates.aes),
                cycles(rates.product),
                cycles(rates.both)
            )?;
        }
        Ok(())
    }
}

/// The CPU's time-stamp counter: reading it costs a third of reading the clock.
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// How fast [`ticks`] count: measured anew.
pub fn ticks_per_nanosecond() -> f64 {
    let (start, from) = (Instant::now(), ticks());
    while start.elapsed() < Duration::from_millis(5) {}
    (ticks() - from) as f64 / start.elapsed().as_nanos() as f64
}

fn name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": "))
        .map_or_else(|| "unknown CPU".to_owned(), |(_, name)| name.to_owned())
}

/// What the kernel says of the first core, in KiB.
fn l2() -> Option<usize> {
    let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok()?;
    let kib: usize = size.trim().strip_suffix('K')?.parse().ok()?;
    Some(kib << 10)
}

/// Nanoseconds of one of `n` steps, the best of many tries.
fn best(n: u32, mut what: impl FnMut()) -> f64 {
    let tries = (0..200).map(|_| {
        let start = Instant::now();
        what();
        start.elapsed().as_nanos() as f64 / f64::from(n)
    });
    tries.fold(f64::INFINITY, f64::min)
}

fn multiply_chain(n: u32) {
    let mut x = 3_u64;
    for _ in 0..n {
        // SAFETY: arithmetic on a register.
        unsafe {
            asm!("imul {0}, {0}", "imul {0}, {0}", "imul {0}, {0}", "imul {0}, {0}", inout(reg) x)
        };
    }
    std::hint::black_box(x);
}

/// Loops over independent instructions on 512-bit registers, which are not kept.
macro_rules! vector_loop {
    ($name:ident, $($line:literal),*) => {
        fn $name(n: u32) {
            // SAFETY: arithmetic on registers; the caller looked for the instructions.
            unsafe {
                asm!(
                    "2:", $($line,)* "dec {n:e}", "jnz 2b",
                    n = inout(reg) n => _,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                    out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                    out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                    options(nomem, nostack),
                );
            }
        }
    };
}

vector_loop!(
    rounds,
    "vaesenc zmm0, zmm0, zmm15",
    "vaesenc zmm1, zmm1, zmm15",
    "vaesenc zmm2, zmm2, zmm15",
    "vaesenc zmm3, zmm3, zmm15",
    "vaesenc zmm4, zmm4, zmm15",
    "vaesenc zmm5, zmm5, zmm15",
    "vaesenc zmm6, zmm6, zmm15",
    "vaesenc zmm7, zmm7, zmm15"
);
vector_loop!(
    products,
    "vpclmulqdq zmm0, zmm14, zmm15, 0",
    "vpclmulqdq zmm1, zmm14, zmm15, 1",
    "vpclmulqdq zmm2, zmm14, zmm15, 0",
    "vpclmulqdq zmm3, zmm14, zmm15, 1",
    "vpclmulqdq zmm4, zmm14, zmm15, 0",
    "vpclmulqdq zmm5, zmm14, zmm15, 1",
    "vpclmulqdq zmm6, zmm14, zmm15, 0",
    "vpclmulqdq zmm7, zmm14, zmm15, 1"
);
vector_loop!(
    rounds_and_products,
    "vaesenc zmm0, zmm0, zmm15",
    "vaesenc zmm1, zmm1, zmm15",
    "vpclmulqdq zmm10, zmm14, zmm15, 0",
    "vaesenc zmm2, zmm2, zmm15",
    "vaesenc zmm3, zmm3, zmm15",
    "vaesenc zmm4, zmm4, zmm15",
    "vpclmulqdq zmm11, zmm14, zmm15, 1",
    "vaesenc zmm5, zmm5, zmm15",
    "vaesenc zmm6, zmm6, zmm15",
    "vpclmulqdq zmm12, zmm14, zmm15, 0",
    "vaesenc zmm7, zmm7, zmm15",
    "vaesenc zmm8, zmm8, zmm15",
    "vaesenc zmm9, zmm9, zmm15",
    "vpclmulqdq zmm13, zmm14, zmm15, 1"
);

//! Asking for memory before it is needed. It lives here because this crate may speak to the CPU directly, and the crates
//! above, which forbid that, have tables that are larger than its caches.

#![allow(unsafe_code, reason = "the CPU's prefetch has no safe form")]

/// The bytes that come into the cache at once.
const LINE: usize = 64;

/// Asks for all cache lines of a value, and does not wait for them. Costs an instruction a line, and one for the end of what
/// may begin anywhere in a line; nothing on CPUs other than x86-64.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = core::ptr::from_ref(value).cast::<i8>();
        let end = (align_of::<T>() < LINE).then(|| size_of::<T>().saturating_sub(1));
        for at in (0..size_of::<T>()).step_by(LINE).chain(end) {
            // SAFETY: every x86-64 CPU has SSE; the address is of the value, and a prefetch changes nothing that a program
            // could see.
            unsafe { _mm_prefetch(start.wrapping_add(at), _MM_HINT_T0) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, LINE);
}

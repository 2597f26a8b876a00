//! Huge pages for the tables, where the kernel gives them to who asks (`/sys/kernel/mm/transparent_hugepage/enabled` is
//! `madvise` or `always`): with many SAs, most of what a packet needs lies on pages of
//! its own, which have to be looked up.
//!
//! Records, keys, windows and caches all come from the C library's allocator, and that asks for them if its tunables say so when
//! the process starts (glibc 2.35 and later; others leave it). So the process starts again, once, with the tunable set.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    process::Command,
};

const TUNABLES: &str = "GLIBC_TUNABLES";
const NAME: &str = "glibc.malloc.hugetlb";
/// Set once the program has started again: where it has its capabilities from its file, the C library takes the tunable out of
/// the environment, and nothing else would tell.
const ASKED: &str = "ESPLANADE_HUGE_PAGES_ASKED";

/// Starts this program again in the same process with huge pages, unless its environment has decided on them. To be called
/// first thing in `main`. Where that cannot be, the process goes on without.
pub fn ask() {
    let tunables = with_huge_pages(env::var_os(TUNABLES).as_deref());
    let Some(tunables) = tunables.filter(|_| env::var_os(ASKED).is_none()) else {
        return;
    };
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // It returns only if it failed.
    let _ = command
        .args(arguments)
        .env(TUNABLES, tunables)
        .env(ASKED, "1")
        .exec();
}

/// What the tunables are to be; `None` when they stay.
fn with_huge_pages(tunables: Option<&OsStr>) -> Option<OsString> {
    let before = tunables.unwrap_or_default();
    if before.to_string_lossy().contains(NAME) {
        return None;
    }
    let mut tunables = before.to_owned();
    if !tunables.is_empty() {
        tunables.push(":");
    }
    tunables.push(format!("{NAME}=1"));
    Some(tunables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tunable_is_added_once_and_never_overruled() {
        let first = with_huge_pages(None).unwrap();
        assert_eq!(first, "glibc.malloc.hugetlb=1");
        assert_eq!(with_huge_pages(Some(&first)), None);
        let others = OsStr::new("glibc.malloc.check=0");
        let both = with_huge_pages(Some(others)).unwrap();
        assert_eq!(both, "glibc.malloc.check=0:glibc.malloc.hugetlb=1");
        let off = OsStr::new("glibc.malloc.hugetlb=0");
        assert_eq!(with_huge_pages(Some(off)), None);
    }
}

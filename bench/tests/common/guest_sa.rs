//! What a test does to the SAs of a kernel that strongSwan put there.

use esplanade_bench::peer::guest::Guest;

/// Puts the state of this SPI, with extended sequence numbers, in its place again, as if it had sent all numbers up to this one.
pub fn has_sent(guest: &Guest<'_>, spi: &str, last: u32) {
    let states = guest.states().expect("states");
    let named = format!("spi 0x{spi}");
    let state = states.iter().find(|state| state.contains(&named));
    let state = state.unwrap_or_else(|| panic!("{spi}: {states:#?}"));
    let after = |word: &str| {
        let mut words = state.split_whitespace();
        words.find(|found| *found == word);
        words.next().unwrap_or_default()
    };
    let name = format!(
        "src {} dst {} proto {} {named}",
        after("src"),
        after("dst"),
        after("proto")
    );
    let reqid = after("reqid").split('(').next().unwrap_or_default();
    let kind = format!("reqid {reqid} mode {} flag af-unspec esn", after("mode"));
    let algorithms: Vec<String> = state.lines().filter_map(algorithm).collect();
    guest
        .run(&format!(
            "ip xfrm state delete {name}\n\
             ip xfrm state add {name} {kind} {} replay-window 32 replay-oseq {last}",
            algorithms.join(" ")
        ))
        .expect("a state");
}

/// A line about an algorithm as `ip xfrm state add` takes it: without `(128 bits)`, and what a shell would read quoted. NULL has no
/// key.
fn algorithm(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind @ ("aead" | "auth-trunc" | "enc"), name, rest @ ..] = words.as_slice() else {
        return None;
    };
    let key = rest.first().copied().unwrap_or_default();
    let length = rest.get(3).copied().unwrap_or_default();
    Some(format!("{kind} '{name}' '{key}' {length}"))
}

//! Identities of IKE (RFC 7296 3.5) as an operator writes them: an address, a domain name, an e-mail address or a
//! distinguished name, told apart by their looks, or by a prefix (`fqdn:`, `email:`, `keyid:`, `dn:`) where looks deceive.

use std::net::IpAddr;

use crate::{model::Identity, problem::Mistake};

/// Far above what a name needs, far below what an IKE message holds.
const LONGEST: usize = 255;

pub(crate) fn read(words: &str) -> Result<Identity, Mistake> {
    let words = words.trim();
    let help = "write an address, a name like `gw-a.example.org`, or `user@example.org`; `keyid:...` for anything else";
    if words.is_empty() || words.len() > LONGEST || words.contains(char::is_control) {
        return Err(Mistake::new("an identity has 1 to 255 printable characters").help(help));
    }
    if let Ok(address) = words.parse::<IpAddr>() {
        return Ok(Identity::Address(address));
    }
    match words.split_once(':') {
        Some(("fqdn", name)) => return fqdn(name),
        Some(("email", name)) if !name.is_empty() => return Ok(Identity::Email(name.to_owned())),
        Some(("keyid", name)) if !name.is_empty() => {
            return Ok(Identity::KeyId(name.as_bytes().to_vec()));
        }
        Some(("dn", name)) => return dn(name.trim()),
        _ => {}
    }
    if words.contains('=') {
        return dn(words);
    }
    match words.split_once('@') {
        // strongSwan writes a name that is not to be looked up with an `@` before it.
        Some(("", name)) => fqdn(name),
        Some((_, domain)) if !domain.is_empty() => Ok(Identity::Email(words.to_owned())),
        Some(_) => Err(Mistake::new(format!("`{words}` is no identity")).help(help)),
        None => fqdn(words).map_err(|mistake| mistake.help(help)),
    }
}

fn dn(name: &str) -> Result<Identity, Mistake> {
    name.parse().map(Identity::Dn).map_err(|error| {
        Mistake::new(format!("`{name}` is no distinguished name: {error}"))
            .help("write it in the order of the certificate: `C=CH, O=Example, CN=gw-a`; a comma within a value is `\\,`")
    })
}

fn fqdn(name: &str) -> Result<Identity, Mistake> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let literal = name.strip_prefix("*.").unwrap_or(name);
    if literal.is_empty() || !literal.chars().all(good) {
        return Err(Mistake::new(format!("`{name}` is no domain name")));
    }
    Ok(Identity::Fqdn(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_decide_and_a_prefix_overrides() {
        assert_eq!(
            read("192.0.2.1"),
            Ok(Identity::Address("192.0.2.1".parse().unwrap()))
        );
        assert_eq!(
            read("gw-a.example.org"),
            Ok(Identity::Fqdn("gw-a.example.org".into()))
        );
        assert_eq!(read("@gw-a"), Ok(Identity::Fqdn("gw-a".into())));
        assert_eq!(
            read("ann@example.org"),
            Ok(Identity::Email("ann@example.org".into()))
        );
        assert_eq!(read("keyid:ab cd"), Ok(Identity::KeyId(b"ab cd".to_vec())));
        let name = "CN=gw, O=x".parse().unwrap();
        assert_eq!(read("CN=gw, O=x"), Ok(Identity::Dn(name)));
        for wrong in ["", "a b", "@", "ann@", "CN=gw, x", "email:"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

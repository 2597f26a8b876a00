//! Reads how the ends of a tunnel prove who they are: a pre-shared key, from its file or from the configuration itself, or
//! certificates. Secrets that others can read are refused.

use std::{io, path::Path, sync::Arc};

use esplanade_pki::{
    Certificate, CrlPolicy, KeyError, OwnCertificate, OwnError, PemError, RsaPadding, Trust,
    TrustError,
};

use crate::{
    FileContext, Secret, eap,
    model::{Authentication, Identity},
    problem::{Mistake, Place, Problems},
    reader::Reader,
    secret,
};

/// Below this a key can be found by trying: whoever pretends to be the peer once can try at leisure (RFC 7296 2.15).
const SHORT: usize = 16;
/// The permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;

/// The keys that only certificates have.
const OF_CERTIFICATES: [&str; 6] = [
    "certificate",
    "key",
    "ca",
    "crl",
    "crl-policy",
    "rsa-padding",
];

pub(crate) fn read(
    section: &Reader<'_>,
    context: &FileContext<'_>,
    anyone: bool,
    problems: &mut Problems<'_>,
) -> Option<Authentication> {
    let other = OF_CERTIFICATES
        .into_iter()
        .find_map(|key| Some((key, section.place(key)?)));
    if section.place("eap").is_some() {
        return read_eap(section, context, anyone, problems);
    }
    match (section.place("psk"), other) {
        (Some(_), None) => {
            let psk = section.section("psk", problems)?;
            read_psk(&psk, context, problems).map(Authentication::Psk)
        }
        (None, Some(_)) => read_certificates(section, context, problems),
        (Some(_), Some((key, place))) => {
            let what = format!("`{key}` does not go with a pre-shared key");
            let help = "a peer proves who it is by one method: keep `psk`, or the certificates";
            problems.error(place, Mistake::new(what).help(help));
            None
        }
        (None, None) => {
            let what = "nothing says how the two ends prove who they are";
            let help = "write `psk: { file: site-b.psk }`, or `certificate`, `key` and `ca`";
            problems.error(section.here, Mistake::new(what).help(help));
            None
        }
    }
}

fn read_certificates(
    section: &Reader<'_>,
    context: &FileContext<'_>,
    problems: &mut Problems<'_>,
) -> Option<Authentication> {
    for (key, what) in [
        ("certificate", "our certificate"),
        ("key", "the private key of our certificate"),
        (
            "ca",
            "the authorities that the peer's certificate is checked by",
        ),
    ] {
        if section.place(key).is_none() {
            let help = "certificates need `certificate: gw.pem`, `key: gw.key` and `ca: ca.pem`";
            let mistake = Mistake::new(format!("`{key}` is missing: {what}"));
            problems.error(section.here, mistake.help(help));
        }
    }
    let ours = read_ours(section, context, problems);
    let trust = read_trust(section, context, problems);
    let (ours, trust) = (ours?, trust?);
    let (ours, trust) = (Arc::new(ours), Arc::new(trust));
    Some(Authentication::Certificate { ours, trust })
}

/// Reads our certificate and its key, and warns of what peers will not like about it.
pub(crate) fn read_ours(
    section: &Reader<'_>,
    context: &FileContext<'_>,
    problems: &mut Problems<'_>,
) -> Option<OwnCertificate> {
    let padding = match section.word("rsa-padding", problems) {
        Some(1) => RsaPadding::Pkcs1,
        _ => RsaPadding::Pss,
    };
    let chain = section.value("certificate", problems, |written| {
        public_file(context, written).map(|(_, bytes)| bytes)
    });
    let ours = chain.and_then(|chain| {
        section.value("key", problems, |written| {
            own(context, &chain, written, padding)
        })
    });
    let ours = ours?;
    if let (Some(place), Some(now)) = (section.place("certificate"), context.files.now()) {
        for certificate in ours.chain() {
            warn_of_dates(certificate, now, place, problems);
        }
    }
    if let (Some(place), Some(certificate)) = (section.place("certificate"), ours.certificate()) {
        warn_of_usage(certificate, place, problems);
    }
    Some(ours)
}

/// Reads EAP and the certificates that go with it.
fn read_eap(
    section: &Reader<'_>,
    context: &FileContext<'_>,
    anyone: bool,
    problems: &mut Problems<'_>,
) -> Option<Authentication> {
    if let Some(place) = section.place("psk") {
        let what =
            "a pre-shared key does not go with EAP: the gateway proves itself by a certificate";
        problems.error(place, Mistake::new(what).help("leave `psk` out"));
        return None;
    }
    let inner = section.section("eap", problems)?;
    let certificates = eap::Certificates {
        anyone,
        section,
        context,
    };
    eap::read(section, &inner, context, problems, certificates)
}

/// A file that holds nothing secret.
fn public_file(context: &FileContext<'_>, written: &str) -> Result<(String, Vec<u8>), Mistake> {
    let path = context.resolve(written);
    let read = context.files.read_secret(&path);
    let file = read.map_err(|error| no_file(&path, &error))?;
    Ok((path.display().to_string(), file.bytes.to_vec()))
}

fn own(
    context: &FileContext<'_>,
    chain: &[u8],
    written: &str,
    padding: RsaPadding,
) -> Result<OwnCertificate, Mistake> {
    let path = context.resolve(written);
    let read = context.files.read_secret(&path);
    let file = read.map_err(|error| no_file(&path, &error))?;
    if file.mode & OTHERS != 0 {
        return Err(readable_by_others("the private key", &path, file.mode));
    }
    OwnCertificate::from_pem(chain, &file.bytes, padding).map_err(|error| match &error {
        OwnError::Pem(_) | OwnError::Certificate(..) => {
            Mistake::new(format!("our certificate cannot be used: {error}"))
                .help("`certificate` names a PEM file whose first section is our certificate")
        }
        OwnError::Mismatch { .. } => Mistake::new(error.to_string())
            .help("take the key that the certificate was made for, or have it issued anew"),
        OwnError::Key(KeyError::Pem(PemError::Encrypted)) => Mistake::new(format!(
            "the private key in {} cannot be used: it is encrypted",
            path.display()
        ))
        .help(format!(
            "take the passphrase off: `openssl pkey -in {0} -out {0}.open`",
            path.display()
        )),
        OwnError::Key(key) => Mistake::new(format!(
            "the private key in {} cannot be used: {key}",
            path.display()
        )),
    })
}

pub(crate) fn read_trust(
    section: &Reader<'_>,
    context: &FileContext<'_>,
    problems: &mut Problems<'_>,
) -> Option<Trust> {
    let policy = match section.word("crl-policy", problems) {
        Some(1) => CrlPolicy::Strict,
        Some(2) => CrlPolicy::Off,
        _ => CrlPolicy::Relaxed,
    };
    let authorities = section.values("ca", problems, |written| {
        let (path, bytes) = public_file(context, written)?;
        Trust::from_pem(&[&bytes], &[], policy).map_err(|error| no_authority(&path, &error))?;
        Ok(bytes)
    })?;
    let lists = section.values("crl", problems, |written| {
        let (path, bytes) = public_file(context, written)?;
        let read = Trust::from_pem(&[], &[&bytes], policy);
        read.map_err(|error| Mistake::new(format!("{path} cannot be used: {error}")))?;
        Ok(bytes)
    });
    if lists.is_none()
        && policy == CrlPolicy::Strict
        && let Some(place) = section.place("crl-policy")
    {
        let what = "`crl-policy: strict` without a list refuses every peer";
        problems.error(
            place,
            Mistake::new(what).help("add `crl: ca.crl`, or write `relaxed`"),
        );
    }
    let authorities: Vec<&[u8]> = authorities
        .iter()
        .map(|(bytes, _)| bytes.as_slice())
        .collect();
    let lists = lists.unwrap_or_default();
    let lists: Vec<&[u8]> = lists.iter().map(|(bytes, _)| bytes.as_slice()).collect();
    let trust = Trust::from_pem(&authorities, &lists, policy).ok()?;
    if let (Some(place), Some(now)) = (section.place("ca"), context.files.now()) {
        for certificate in trust.authorities() {
            warn_of_dates(certificate, now, place, problems);
        }
    }
    Some(trust)
}

fn no_authority(path: &str, error: &TrustError) -> Mistake {
    let mistake = Mistake::new(format!("{path} cannot be used: {error}"));
    match error {
        TrustError::NoAuthority(_) => mistake
            .help("`ca` names the authority that has issued the peer's certificate, not the peer"),
        _ => mistake,
    }
}

fn warn_of_dates(certificate: &Certificate, now: u64, place: Place, problems: &mut Problems<'_>) {
    /// A month, in which a new one can be had.
    const SOON: u64 = 30 * 86_400;
    let (from, until) = certificate.validity();
    let what = if until < now {
        "has expired: every peer that checks it will refuse it"
    } else if from > now {
        "is not valid yet; is the clock right?"
    } else if until - now < SOON {
        "expires within a month"
    } else {
        return;
    };
    let title = certificate.title();
    let mistake = Mistake::new(format!("the certificate of `{title}` {what}"));
    problems.warning(place, mistake.help("have a new one issued, and reload"));
}

fn warn_of_usage(certificate: &Certificate, place: Place, problems: &mut Problems<'_>) {
    let title = certificate.title();
    let what = match certificate.wrong_usages() {
        Some(usages) => format!(
            "the extended key usage of `{title}` is {}: peers that go by RFC 4945 refuse it",
            usages.join(", ")
        ),
        None if !certificate.may_sign() => {
            format!("the key usage of `{title}` lacks digitalSignature: peers refuse it")
        }
        None => return,
    };
    let help = "have it issued with ipsecIKE (1.3.6.1.5.5.7.3.17) or without extended key usage";
    problems.warning(place, Mistake::new(what).help(help));
}

/// With certificates, an identity is one that a certificate can have, and ours is one that ours has.
pub(crate) fn check_identities(
    authentication: &Authentication,
    (ours, theirs): (&Identity, &Identity),
    tunnel: &Reader<'_>,
    problems: &mut Problems<'_>,
) {
    let (own, certified) = match authentication {
        Authentication::Psk(_) => return,
        Authentication::Certificate { ours, .. } => (Some(ours), true),
        Authentication::EapServer { ours, .. } => (Some(ours), false),
        Authentication::EapClient { .. } => (None, true),
    };
    let place = |key: &str| tunnel.place(key).unwrap_or(tunnel.here);
    if certified && matches!(theirs, Identity::KeyId(_)) {
        let what = format!("no certificate can say that a peer is `{theirs}`");
        let help = "write a name, an address or the whole subject of the peer's certificate";
        problems.error(place("remote"), Mistake::new(what).help(help));
    }
    if let Some(certificate) = own.and_then(|own| own.certificate())
        && !is_in(ours, certificate)
    {
        let names = certificate.names();
        let names = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        };
        let what = format!("our certificate does not say that we are `{ours}`");
        let help = format!(
            "write as `identity` its subject `{}`, or one of its alternative names: {names}",
            certificate.subject()
        );
        problems.error(place("local"), Mistake::new(what).help(help));
    }
}

/// RFC 4945 3.1: an identity equals a subject alternative name of its kind or the whole subject.
fn is_in(identity: &Identity, certificate: &Certificate) -> bool {
    match identity {
        Identity::Address(address) => certificate.has_address(*address),
        Identity::Fqdn(name) => certificate.has_domain(name),
        Identity::Email(address) => certificate.has_email(address),
        Identity::Dn(name) => !name.is_pattern() && name.matches(certificate.subject()),
        Identity::KeyId(_) => false,
    }
}

pub(crate) fn no_file(path: &Path, error: &io::Error) -> Mistake {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => Mistake::new(format!("the file {path} does not exist")),
        io::ErrorKind::PermissionDenied => {
            Mistake::new(format!("we may not read {path}")).help("run as its owner, or as root")
        }
        _ => Mistake::new(format!("{path} cannot be read: {error}")),
    }
}

fn read_psk(
    section: &Reader<'_>,
    context: &FileContext<'_>,
    problems: &mut Problems<'_>,
) -> Option<Secret> {
    let (name, read) = match (section.place("file"), section.place("secret")) {
        (Some(_), None) => ("file", from_file(section, context, problems)),
        (None, Some(_)) => ("secret", inline(section, context, problems)),
        (None, None) => {
            problems.error(
                section.here,
                Mistake::new("the pre-shared key is not given")
                    .help("write `psk: { file: site-b.psk }`"),
            );
            return None;
        }
        (Some(_), Some(second)) => {
            let mistake =
                Mistake::new("the pre-shared key is given twice, as `file` and as `secret`");
            problems.error(second, mistake.help("keep one of the two"));
            return None;
        }
    };
    let secret = read?;
    if secret.expose().len() < SHORT
        && let Some(item) = section.item(name, problems)
    {
        let what = format!(
            "the pre-shared key has only {} bytes and can be guessed",
            secret.expose().len()
        );
        problems.warning(
            item.place,
            Mistake::new(what).help("take a random one: `openssl rand -base64 32`"),
        );
    }
    Some(secret)
}

fn from_file(
    section: &Reader<'_>,
    context: &FileContext<'_>,
    problems: &mut Problems<'_>,
) -> Option<Secret> {
    section.value("file", problems, |written| {
        let path = context.resolve(written);
        let file = context
            .files
            .read_secret(&path)
            .map_err(|error| unreadable(&path, &error))?;
        if file.mode & OTHERS != 0 {
            return Err(readable_by_others("the pre-shared key", &path, file.mode));
        }
        secret::psk(&file.bytes)
    })
}

fn inline(
    section: &Reader<'_>,
    context: &FileContext<'_>,
    problems: &mut Problems<'_>,
) -> Option<Secret> {
    section.value("secret", problems, |written| match context.mode {
        Some(mode) if mode & OTHERS != 0 => Err(readable_by_others(
            "this file holds a pre-shared key and",
            &context.path,
            mode,
        )),
        _ => secret::psk(written.as_bytes()),
    })
}

/// Refuses a secret that others can read.
pub(crate) fn refuse_open(what: &str, path: &Path, mode: u32) -> Result<(), Mistake> {
    match mode & OTHERS {
        0 => Ok(()),
        _ => Err(readable_by_others(what, path, mode)),
    }
}

fn readable_by_others(what: &str, path: &Path, mode: u32) -> Mistake {
    let path = path.display();
    Mistake::new(format!(
        "{what} is open to others than its owner (mode {mode:04o})"
    ))
    .help(format!("run `chmod 600 {path}`"))
}

fn unreadable(path: &Path, error: &io::Error) -> Mistake {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => Mistake::new(format!("the file {path} does not exist")).help(
            format!("make one for both ends: `(umask 077; openssl rand -base64 32 > {path})`"),
        ),
        io::ErrorKind::PermissionDenied => {
            Mistake::new(format!("we may not read {path}")).help("run as its owner, or as root")
        }
        _ => Mistake::new(format!("{path} cannot be read: {error}")),
    }
}

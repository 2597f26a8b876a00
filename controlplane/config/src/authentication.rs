//! Reads the pre-shared key, from its file or from the configuration itself, and refuses one that others can read.

use std::{io, path::Path};

use crate::{
    FileContext, Secret,
    problem::{Mistake, Problems},
    reader::Reader,
    secret,
};

/// Below this a key can be found by trying: whoever pretends to be the peer once can try at leisure (RFC 7296 2.15).
const SHORT: usize = 16;
/// The permission bits of everybody but the owner.
const OTHERS: u32 = 0o077;

pub(crate) fn read_psk(
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

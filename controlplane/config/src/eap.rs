//! Reads how clients prove by EAP who they are: the users that a gateway knows, or the name and the password of a client; or
//! certificates. The gateway proves itself by a certificate in either case.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use esplanade_ike::config::{EapClients, EapProof, Secret as IkeSecret, Users};
use esplanade_pki::{OwnCertificate, Trust};

use crate::{
    FileContext, Secret, authentication,
    model::Authentication,
    problem::{Mistake, Problems},
    reader::Reader,
};

const SERVER: &str = "`certificate: gw.pem`, `key: gw.key` and `eap: { users: clients.users }`";
const CLIENT: &str =
    "`ca: ca.pem` and `eap: { identity: carol@example.org, password: { file: carol.password } }`";

/// Reads the section `eap` of an authentication whose certificates, ours and those that we trust, have been read.
pub(crate) fn read(
    outer: &Reader<'_>,
    eap: &Reader<'_>,
    context: &FileContext<'_>,
    problems: &mut Problems<'_>,
    certificates: Certificates<'_>,
) -> Option<Authentication> {
    if eap.word("method", problems) == Some(1) {
        return read_tls(outer, eap, problems, certificates);
    }
    let mut refuse = |place, what: String, help: String| {
        problems.error(place, Mistake::new(what).help(help));
        None
    };
    let serves = match (eap.place("users"), eap.place("password")) {
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (None, None) => {
            let what = "nothing says whom we know, or who we are".to_owned();
            let help = format!("a gateway needs {SERVER}, a client {CLIENT}");
            return refuse(eap.here, what, help);
        }
        (Some(_), Some(place)) => {
            let what = "a gateway knows `users`, a client has a `password`".to_owned();
            return refuse(place, what, "keep one of the two".to_owned());
        }
    };
    let (needed, foreign, all): (&[&str], &[&str], _) = if serves {
        (
            &["certificate", "key"],
            &["ca", "crl", "crl-policy"],
            SERVER,
        )
    } else {
        (&["ca"], &["certificate", "key", "rsa-padding"], CLIENT)
    };
    if let Some(key) = needed.iter().find(|key| outer.place(key).is_none()) {
        let what =
            format!("`{key}` is missing: with EAP the gateway proves itself by a certificate");
        return refuse(outer.here, what, format!("write {all}"));
    }
    let foreign = foreign
        .iter()
        .find_map(|key| Some((key, outer.place(key)?)));
    if let Some((key, place)) = foreign {
        let who = if serves {
            "clients prove"
        } else {
            "we prove ourselves"
        };
        let what = format!("`{key}` is for certificates, and {who} by EAP");
        return refuse(place, what, format!("leave it out: {all} are all"));
    }
    let (ours, trust) = certificates.read(serves, !serves, problems);
    if serves {
        let users = eap.value("users", problems, |written| users(context, written));
        let (ours, users) = (Arc::new(ours?), Arc::new(users?));
        let clients = EapClients::Passwords(users);
        return Some(Authentication::EapServer { ours, clients });
    }
    let name = eap.value("identity", problems, |words| Ok(words.to_owned()));
    let section = eap.section("password", problems)?;
    let password = section.value("file", problems, |written| password(context, written));
    Some(Authentication::EapClient {
        trust: Arc::new(trust?),
        name,
        by: EapProof::Password(IkeSecret::from(password?.expose())),
    })
}

/// With TLS both ends have certificates; which of them we are, the peer's address tells.
fn read_tls(
    outer: &Reader<'_>,
    eap: &Reader<'_>,
    problems: &mut Problems<'_>,
    certificates: Certificates<'_>,
) -> Option<Authentication> {
    let all = "`certificate`, `key`, `ca` and `eap: { method: tls }`";
    let missing = ["certificate", "key", "ca"]
        .into_iter()
        .find(|key| outer.place(key).is_none());
    let foreign = ["users", "password"]
        .into_iter()
        .find_map(|key| Some((key, eap.place(key)?)));
    if let Some((key, place)) = foreign {
        let what = format!("`{key}` is for MSCHAPv2, and with TLS certificates say who is who");
        problems.error(
            place,
            Mistake::new(what).help(format!("leave it out: {all} are all")),
        );
        return None;
    }
    if let Some(key) = missing {
        let what =
            format!("`{key}` is missing: with TLS both ends prove themselves by certificates");
        problems.error(outer.here, Mistake::new(what).help(format!("write {all}")));
        return None;
    }
    let name = eap.value("identity", problems, |words| Ok(words.to_owned()));
    let serves = certificates.anyone;
    let (ours, trust) = certificates.read(true, true, problems);
    let (ours, trust) = (Arc::new(ours?), Arc::new(trust?));
    Some(if serves {
        let clients = EapClients::Certificates(trust);
        Authentication::EapServer { ours, clients }
    } else {
        let by = EapProof::Certificate(ours);
        Authentication::EapClient { trust, name, by }
    })
}

/// What reads the certificates of an authentication.
pub(crate) struct Certificates<'c> {
    /// The peer comes from anywhere: it calls us.
    pub anyone: bool,
    pub section: &'c Reader<'c>,
    pub context: &'c FileContext<'c>,
}

impl Certificates<'_> {
    fn read(
        &self,
        ours: bool,
        trust: bool,
        problems: &mut Problems<'_>,
    ) -> (Option<OwnCertificate>, Option<Trust>) {
        let (section, context) = (self.section, self.context);
        let ours = ours.then(|| authentication::read_ours(section, context, problems));
        let trust = trust.then(|| authentication::read_trust(section, context, problems));
        (ours.flatten(), trust.flatten())
    }
}

fn secret_file(context: &FileContext<'_>, written: &str, what: &str) -> Result<Secret, Mistake> {
    let path = context.resolve(written);
    let read = context.files.read_secret(&path);
    let file = read.map_err(|error| authentication::no_file(&path, &error))?;
    authentication::refuse_open(what, &path, file.mode)?;
    Ok(Secret::from(file.bytes.to_vec()))
}

fn password(context: &FileContext<'_>, written: &str) -> Result<Secret, Mistake> {
    let read = secret_file(context, written, "the password")?;
    let text = std::str::from_utf8(read.expose());
    let text = text.map_err(|_| Mistake::new("the password is not in UTF-8"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => {
            Err(Mistake::new("the password is empty").help("write it into the file, in one line"))
        }
        line if line.contains('\n') => {
            Err(Mistake::new("the password has several lines").help("write it in one line"))
        }
        line => Ok(Secret::from(line.as_bytes().to_vec())),
    }
}

/// A user in each line: its name, a colon, and its password. What begins with `#` is a comment. Mistakes tell the line, never
/// what it says.
fn users(context: &FileContext<'_>, written: &str) -> Result<Users, Mistake> {
    let read = secret_file(context, written, "the file of users")?;
    let path = context.resolve(written);
    let wrong = |line: usize, what: &str| {
        let path = Path::display(&path);
        Mistake::new(format!("{path}, line {line}: {what}"))
            .help("write `carol@example.org: her password` in each line")
    };
    let text = std::str::from_utf8(read.expose()).map_err(|_| wrong(1, "it is not UTF-8"))?;
    let (mut names, mut users) = (BTreeSet::new(), Vec::new());
    for (line, words) in (1..).zip(text.lines()) {
        let words = words.trim();
        if words.is_empty() || words.starts_with('#') {
            continue;
        }
        let (name, password) = words
            .split_once(':')
            .ok_or_else(|| wrong(line, "there is no colon in it"))?;
        let (name, password) = (name.trim(), password.trim());
        if name.is_empty() || password.is_empty() {
            return Err(wrong(line, "the name or the password is empty"));
        }
        if !names.insert(name) {
            return Err(wrong(line, "this user is there already"));
        }
        users.push((name.to_owned(), IkeSecret::from(password.as_bytes())));
    }
    if users.is_empty() {
        return Err(wrong(1, "there is no user in it"));
    }
    Ok(users.into_iter().collect())
}

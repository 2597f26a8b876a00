//! PEM (RFC 7468): the sections of a text, of which others than those asked for are passed over.

use zeroize::Zeroizing;

/// A text in which what is looked for cannot be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// It has no section of the kind.
    #[error("it holds no PEM section `BEGIN {0}`")]
    Missing(&'static str),
    /// A section cannot be decoded.
    #[error("its PEM section `BEGIN {0}` is damaged")]
    Damaged(String),
    /// The private key is protected by a passphrase.
    #[error(
        "its private key is encrypted; take the passphrase off with `openssl pkey -in KEY -out KEY.open`"
    )]
    Encrypted,
}

/// How a private key is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyFormat {
    /// RFC 5958.
    Pkcs8,
    /// RFC 8017 A.1.2.
    Pkcs1,
    /// RFC 5915.
    Sec1,
}

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// Each section's label and whole text, in order.
fn sections(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, section)) = rest.split_once(BEGIN) {
        let Some((label, _)) = section.split_once(DASHES) else {
            break;
        };
        let end = format!("-----END {label}-----");
        let start = rest.len() - section.len() - BEGIN.len();
        let Some(at) = rest.get(start..).and_then(|whole| whole.find(&end)) else {
            found.push((label, ""));
            break;
        };
        let stop = start + at + end.len();
        let (whole, after) = rest.split_at(stop);
        found.push((label, whole.get(start..).unwrap_or_default()));
        rest = after;
    }
    found
}

fn decode(label: &str, section: &str) -> Result<Zeroizing<Vec<u8>>, PemError> {
    match pem_rfc7468::decode_vec(section.as_bytes()) {
        Ok((found, der)) if found == label => Ok(Zeroizing::new(der)),
        _ => Err(PemError::Damaged(label.to_owned())),
    }
}

/// The first private key.
pub(crate) fn private_key(text: &[u8]) -> Result<(KeyFormat, Zeroizing<Vec<u8>>), PemError> {
    let text = std::str::from_utf8(text).map_err(|_| PemError::Missing("PRIVATE KEY"))?;
    for (label, section) in sections(text) {
        let format = match label {
            "PRIVATE KEY" => KeyFormat::Pkcs8,
            "RSA PRIVATE KEY" | "EC PRIVATE KEY" if section.contains("ENCRYPTED") => {
                return Err(PemError::Encrypted);
            }
            "RSA PRIVATE KEY" => KeyFormat::Pkcs1,
            "EC PRIVATE KEY" => KeyFormat::Sec1,
            "ENCRYPTED PRIVATE KEY" => return Err(PemError::Encrypted),
            _ => continue,
        };
        return Ok((format, decode(label, section)?));
    }
    Err(PemError::Missing("PRIVATE KEY"))
}

/// All sections of one label. What is no PEM text is taken as the DER of one.
pub(crate) fn all(text: &[u8], wanted: &'static str) -> Result<Vec<Vec<u8>>, PemError> {
    /// The tag of a SEQUENCE, which no text begins with.
    const SEQUENCE: u8 = 0x30;
    let as_text = std::str::from_utf8(text).ok();
    let Some(as_text) = as_text.filter(|text| text.contains(BEGIN)) else {
        return match text.first() {
            Some(&SEQUENCE) => Ok(vec![text.to_vec()]),
            _ => Err(PemError::Missing(wanted)),
        };
    };
    let found: Vec<Vec<u8>> = sections(as_text)
        .into_iter()
        .filter(|(label, _)| *label == wanted)
        .map(|(label, section)| decode(label, section).map(|der| der.to_vec()))
        .collect::<Result<_, _>>()?;
    if found.is_empty() {
        return Err(PemError::Missing(wanted));
    }
    Ok(found)
}

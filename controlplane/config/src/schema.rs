//! The JSON schema of the configuration, for editors that complete and check YAML by it; made of the same grammar that
//! the reader goes by.

use serde_json::{Map, Value, json};

use crate::grammar::{Field, Kind, ROOT, Section};

/// The schema (draft 2020-12).
#[must_use]
pub fn schema() -> Value {
    let mut schema = section(&ROOT);
    if let Some(object) = schema.as_object_mut() {
        object.insert(
            "$schema".into(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        object.insert("title".into(), json!("Esplanade gateway"));
    }
    schema
}

fn section(section: &Section) -> Value {
    let properties: Map<String, Value> = section
        .fields
        .iter()
        .map(|field| (field.key.to_owned(), described(field)))
        .collect();
    let required: Vec<&str> = section
        .fields
        .iter()
        .filter(|field| field.required)
        .map(|field| field.key)
        .collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn described(field: &Field) -> Value {
    let mut schema = shape(&field.kind);
    if let Some(object) = schema.as_object_mut() {
        let default = if field.default.is_empty() {
            String::new()
        } else {
            format!(" Default: {}.", field.default)
        };
        object.insert(
            "description".into(),
            json!(format!("{}{default}", field.doc)),
        );
    }
    schema
}

fn shape(kind: &Kind) -> Value {
    match kind {
        // An editor of YAML 1.1 takes `off` for false.
        Kind::Word(words) if words.contains(&"off") => {
            let words = words.iter().map(|word| json!(word));
            json!({ "enum": words.chain([json!(true), json!(false)]).collect::<Vec<_>>() })
        }
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Text(example) => {
            json!({ "type": ["string", "integer", "boolean"], "examples": [example] })
        }
        Kind::Number(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Kind::Switch => json!({ "enum": ["on", "off", true, false] }),
        Kind::Texts(_) => {
            let one = json!({ "type": ["string", "integer"] });
            json!({ "oneOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
        }
        Kind::Section(inner) => section(inner),
        Kind::Named(inner) => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z0-9_.][A-Za-z0-9_.-]{0,30}$" },
            "additionalProperties": section(inner),
        }),
    }
}

//! The YAML configuration: model, validation, compilation, diff.

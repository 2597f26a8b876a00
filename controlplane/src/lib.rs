//! The tokio control plane and the esplanade command line.

//! The shared-memory contract between the two planes.

//! Packet AEADs in batches, with engines chosen at run time.

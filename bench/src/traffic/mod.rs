//! Traffic that knows what became of it: [`stream`] through the hosts' kernels, [`tester`] through
//! AF_XDP at rates that no kernel keeps up with.

pub mod frame;
pub mod stream;
pub mod tester;

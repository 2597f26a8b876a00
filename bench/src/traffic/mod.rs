//! Traffic that knows what became of it: [`stream`], [`echo`] and [`transfer`] through the hosts' kernels,
//! [`tester`] through AF_XDP at rates that no kernel keeps up with, [`inject`] for packets that no
//! honest host would send.

pub mod echo;
pub mod esp;
pub mod frame;
pub mod inject;
pub mod path;
pub mod search;
pub mod stream;
pub mod tester;
pub mod transfer;

//! The XDP program that decides "dataplane or kernel", and its typed maps.

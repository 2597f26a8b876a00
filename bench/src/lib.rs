//! The test-bed, the traffic generator and the benchmarks.

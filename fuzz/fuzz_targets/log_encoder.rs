//! What a container writes, and how it comes: read back from its logs as it was written.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| runtime::supervisor::replay_log(input));

//! SPDY frames and connections from a peer that may send anything.
#![no_main]

#[path = "../../cri-server/tests/hostile_frames/replay.rs"]
#[allow(dead_code)]
mod replay;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    replay::spdy_frames(input);
    replay::spdy_connection(input);
});

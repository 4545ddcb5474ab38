//! crisp.
fn main() {}

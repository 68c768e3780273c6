//! The `autopeft` program.

fn main() {}

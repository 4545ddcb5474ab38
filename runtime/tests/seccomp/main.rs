//! Seccomp filters against three judges: a naive reading of the profile, the kernel, and what the catalogue of
//! break-outs says the default profile must deny.

mod cases;
mod default;
mod effects;
mod hostile;
mod interpreter;
mod localhost;
mod reference;
mod rules;

//! The daemon's side of the supervisor protocol: spawn a supervisor or connect to one that runs.

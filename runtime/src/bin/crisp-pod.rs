//! The supervisor of one pod. All of it is in `runtime::supervisor`.

fn main() -> std::process::ExitCode {
    runtime::supervisor::main()
}

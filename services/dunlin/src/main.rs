//! The `dunlin` command.

fn main() -> std::process::ExitCode {
    dunlin::cli::main()
}

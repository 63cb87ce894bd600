//! The program itself: what it says when it cannot run.

use std::process::Command;

/// The last line on standard error of a run that fails.
fn refused(arguments: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_dunlin-loadtest"));
    program.args(arguments).env_remove("DUNLIN_LOGIN").env_remove("DUNLIN_CA");
    let output = program.output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("errors are text");
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_the_run() {
    for flag in ["--html", "--json"] {
        let said = refused(&["run", "--devices", "1", flag, "/no-such-folder/report"]);
        assert!(said.contains("cannot write /no-such-folder/report"), "{said}");
    }
}

#[test]
fn a_run_without_a_hub_says_what_is_missing() {
    let said = refused(&["run", "--devices", "1"]);
    assert!(said.contains("DUNLIN_LOGIN"), "{said}");
}

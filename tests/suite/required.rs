//! That a backend which is required is not passed over.

use std::process::Command;

use lightspan::{Backend, Device};

use crate::support::REQUIRE;

/// Runs one test of this binary again, in a process of its own, and says whether it passed, and all that it printed.
fn passes(require: &str, skip: &str) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "linear::every_size_before_the_last_is_rows"]);
    // Of what the machine has, the CPU alone, so that it makes no difference what that is.
    let output = command.env(REQUIRE, require).env("LIGHTSPAN_SKIP", skip).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(printed.contains("running 1 test"), "{printed}");
    (output.status.success(), printed)
}

#[test]
fn what_is_required_and_not_there_fails() {
    let all = "wgpu,cuda,cuda-emulated";
    for require in ["", "cpu"] {
        let (passed, printed) = passes(require, all);
        assert!(passed, "{require:?}: {printed}");
    }
    for require in ["cuda", "cpu,cuda", "wgpu", "cuda-emulated", "cuda,nonsense", "nonsense"] {
        let (passed, printed) = passes(require, all);
        assert!(!passed && printed.contains(REQUIRE), "{require:?}: {printed}");
    }
    // Nor does the emulator do for a GPU.
    let (passed, printed) = passes("cuda", "wgpu");
    match Device::open(Backend::Cuda) {
        Ok(_) => assert!(passed, "{printed}"),
        Err(error) => assert!(!passed && printed.contains(&error.to_string()), "{printed}"),
    }
}

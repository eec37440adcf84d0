use std::process::Output;

use super::*;

#[test]
fn programs_are_found_among_the_messages_of_cargo() {
    let messages = concat!(
        r#"{"reason":"compiler-artifact","target":{"name":"lightspan"},"executable":null,"fresh":true}"#,
        "\n",
        r#"{"reason":"compiler-artifact","executable":"/t/portable/deps/suite-0123456789abcdef","fresh":false}"#,
        "\n",
        r#"{"reason":"build-finished","success":true}"#,
    );
    let programs = executables(messages);
    assert_eq!(programs, [PathBuf::from("/t/portable/deps/suite-0123456789abcdef")]);
    assert!(is_program(&programs[0], "suite"));
    assert!(is_program(Path::new("/t/examples/race"), "race"));
    for other in ["/t/examples/races", "/t/examples/race-", "/t/race/other", "/t/race-0123456789abcdeg"] {
        assert!(!is_program(Path::new(other), "race"), "{other}");
    }
}

#[test]
fn versions_of_glibc_are_ordered_by_their_numbers() {
    let newest = |program: &[u8]| dotted(&newest_glibc(program));
    assert_eq!(newest(b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.4\0GLIBC_PRIVATE\0GLIBC_"), "2.34");
    assert_eq!(newest(b"GLIBC_2.34 GLIBC_2.100"), "2.100");
    assert_eq!(newest(b"no such name"), "");
}

#[test]
fn only_an_earlier_bundle_is_replaced() {
    let folder = fresh("replaced");
    assert_eq!(clear(&folder), Ok(()));
    save(&folder.join("a file"), "").unwrap();
    assert!(clear(&folder).unwrap_err().contains("something else than a bundle"));
    save(&folder.join(NOTE), "").unwrap();
    assert_eq!(clear(&folder), Ok(()));
    assert!(!folder.join("a file").exists());
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_bundle_is_counted_at_any_depth() {
    let folder = fresh("counted");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &folder.join("copies/of")).unwrap();
    let copied = sizes(&folder).unwrap();
    assert!(copied.contains(&(folder.join("copies/of/bundle/run.sh"), SCRIPT.len() as u64)));
    fs::remove_dir_all(&folder).unwrap();
}

/// A name of a test that there is not would run nothing, and pass.
#[test]
fn the_tests_under_the_sanitizer_are_there() {
    let list = SCRIPT.split_once("some=(").and_then(|(_, rest)| rest.split_once(')')).unwrap().0;
    let names: Vec<(&str, &str)> = list.split_whitespace().filter_map(|name| name.split_once("::")).collect();
    assert_eq!(names.len(), list.split_whitespace().count());
    for operator in ["linear", "norm", "embedding", "top_k", "append"] {
        assert!(names.iter().any(|(module, _)| *module == operator), "none of {operator}");
    }
    for (module, name) in names {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/suite/{module}.rs"));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(&format!("#[test]\nfn {name}()")), "no {name} in {}", file.display());
    }
}

/// A folder of a test that is not there yet.
fn fresh(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("lightspan-bundle-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    folder
}

/// A bundle of programs that say how they were called and exit with a status: that of `failing` with 3, `devices` as it
/// does where there is such a GPU, or none.
#[cfg(target_os = "linux")]
fn pretended(name: &str, gpu: Option<&str>, failing: &str) -> PathBuf {
    let folder = fresh(name);
    let program = |place: &str, script: String| {
        let path = folder.join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        save(&path, &script).unwrap();
        executable(&path).unwrap();
    };
    for (_, _, name) in PROGRAMS.into_iter().chain(CANDLE) {
        let status = if name == failing { 3 } else { 0 };
        program(&format!("bin/{name}"), format!("#!/bin/sh\necho {name} \"$@\"\nexit {status}\n"));
    }
    program(
        "bin/devices",
        match gpu {
            Some(gpu) => format!("#!/bin/sh\necho 'cuda: {gpu}'\n"),
            None => "#!/bin/sh\necho 'there is none of cuda' >&2\nexit 1\n".to_owned(),
        },
    );
    let estimates =
        r#"new="$CRITERION_HOME/a b/new"; mkdir -p "$new"; echo '{"e": 1}' >"$new/estimates.json""#;
    let benchmark = r#"echo '{"b": 1}' >"$new/benchmark.json"; echo "$LIGHTSPAN_CANDLE_DEVICE" "$@""#;
    program("bin/candle", format!("#!/bin/sh\n{estimates}\n{benchmark}\n"));
    let operators = r#"echo '{"a": 1}' >>"$LIGHTSPAN_BENCH_JSON"; echo '{"b": 2}' >>"$LIGHTSPAN_BENCH_JSON""#;
    program("bin/operators", format!("#!/bin/sh\n{operators}\n"));
    // As it would be with PyTorch's packages of one version and a part of those of another.
    for library in ["12/libcublas.so.12", "12/libcurand.so.10", "13/libcublas.so.13", "13/libcublasLt.so.13"]
    {
        program(&format!("libraries of CUDA/{library}"), String::new());
    }
    for (_, _, name) in PROGRAMS.into_iter().chain(CANDLE) {
        pack(&folder.join("bin").join(name)).unwrap();
    }
    // What else the script looks for, of which there is nothing.
    program("path/nvidia-smi", "#!/bin/sh\necho 555.42\n".to_owned());
    for nothing in ["python3", "ldconfig"] {
        program(&format!("path/{nothing}"), "#!/bin/sh\nexit 1\n".to_owned());
    }
    program("run.sh", SCRIPT.to_owned());
    save(&folder.join(NOTE), "commit=abc\nglibc=2.0\n").unwrap();
    folder
}

#[cfg(target_os = "linux")]
fn run(folder: &Path, args: &[&str]) -> Output {
    let path = format!("{}:/usr/bin:/bin", folder.join("path").display());
    let mut command = Command::new(folder.join("run.sh"));
    command.args(args).env("PATH", path).env("CUDA_HOME", folder);
    let libraries = |version| folder.join(format!("libraries of CUDA/{version}")).display().to_string();
    command.env("LD_LIBRARY_PATH", format!("{}:{}", libraries(12), libraries(13)));
    command.output().unwrap()
}

/// The one file of that name that a run has left, if it has left any.
#[cfg(target_os = "linux")]
fn result(folder: &Path, name: &str) -> Option<String> {
    let mut dates = fs::read_dir(folder.join("results")).ok()?;
    fs::read_to_string(dates.next()?.ok()?.path().join(name)).ok()
}

#[test]
#[cfg(target_os = "linux")]
fn the_script_runs_all_and_writes_it_down() {
    let folder = pretended("runs", Some("cuda (a \"GPU\")"), "none");
    let output = run(&folder, &["--quick"]);
    assert!(output.status.success(), "{output:?}");
    let (text, json) = (result(&folder, "results.txt").unwrap(), result(&folder, "results.json").unwrap());
    let lines =
        ["GPU: cuda (a \"GPU\"), driver 555.42", "SKIPPED: compute-sanitizer", "SKIPPED: PyTorch", "suite "];
    let lines = lines.into_iter().chain(["race-bf16 ", "race-model-f32-1 ", "race-model-bf16-8 "]);
    for line in lines.chain(["candle-suite ", "candle ", "suite-cublaslt "]) {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    assert!(!text.contains("FAILED"), "{text}");
    let parts = [
        r#""gpu": "cuda (a \"GPU\")", "driver": "555.42""#,
        r#""command": "run.sh --quick""#,
        r#"{"name": "suite", "exit_status": 0, "#,
        r#""operators": [{"a": 1},{"b": 2}],"#,
        r#""pytorch": [],"#,
        "\"candle\": [\n{\"benchmark\": {\"b\": 1}, \"estimates\": {\"e\": 1}}]}",
    ];
    for part in parts {
        assert!(json.contains(part), "no {part} in {json}");
    }
    let conformance = result(&folder, "conformance.txt").unwrap();
    assert_eq!(conformance, "conformance --backend reference --backend cuda fixtures\n");
    assert_eq!(result(&folder, "candle.txt").unwrap(), "cuda --bench --quick\n");
    let library = fs::read_link(folder.join("libraries/libcublas.so")).unwrap();
    assert_eq!(library, folder.join("libraries of CUDA/13/libcublas.so.13"));
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn the_script_says_which_libraries_of_candle_are_missing() {
    let folder = pretended("libraries", Some("cuda (a GPU)"), "none");
    fs::remove_file(folder.join("libraries of CUDA/13/libcublasLt.so.13")).unwrap();
    let output = run(&folder, &[]);
    assert!(output.status.success(), "{output:?}");
    let text = result(&folder, "results.txt").unwrap();
    let missing = "SKIPPED: lightspan inside candle, for which libraries are missing: CUDA 12 would be with \
                   libcublasLt.so.12, and CUDA 13 would be with libcublasLt.so.13";
    assert!(text.contains(missing), "{text}");
    assert!(text.contains("SKIPPED: linear layers by cuBLASLt"), "{text}");
    assert!(
        !text.contains("candle-suite") && !text.contains("suite-cublaslt") && text.contains("race-bf16 "),
        "{text}"
    );
    assert!(result(&folder, "results.json").unwrap().ends_with("\"candle\": []}\n"));
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn the_script_fails_where_a_step_does_and_goes_on() {
    let folder = pretended("fails", Some("cuda (a GPU)"), "suite");
    let output = run(&folder, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = result(&folder, "results.txt").unwrap();
    // On our kernels, and on cuBLASLt.
    assert_eq!(text.matches(" FAILED ").count(), 2, "{text}");
    assert!(text.contains("race-bf16 "), "{text}");
    assert!(result(&folder, "results.json").unwrap().contains(r#"{"name": "suite", "exit_status": 3, "#));
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn the_script_does_nothing_without_a_gpu_or_with_an_old_system() {
    let folder = pretended("nothing", None, "none");
    let output = run(&folder, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "there is none of cuda\nrun.sh: there is no GPU to run on (see above)\n");
    assert_eq!(run(&folder, &["--nonsense"]).status.code(), Some(2));
    save(&folder.join(NOTE), "commit=abc\nglibc=99.1\n").unwrap();
    let output = run(&folder, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("need glibc 99.1 or newer: this is 2."));
    assert_eq!(result(&folder, "results.txt"), None);
    fs::remove_dir_all(&folder).unwrap();
}

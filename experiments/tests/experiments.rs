//! Every program in small, with fixed seeds: it learns, and goes on after a stop to the same bits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Parser};
use lightspan_experiments::report::Report;
use lightspan_experiments::training::{Curve, Stopped};
use lightspan_experiments::{cross_sequence, frozen_transfer, pretrain, replaced_token};

#[derive(Parser)]
struct Cli<T: Args> {
    #[command(flatten)]
    options: T,
}

/// A folder of results, which goes when this does.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("lightspan-{name}-{}", std::process::id()));
        // Left behind by a process of the same number.
        let _ = fs::remove_dir_all(&folder);
        Folder(folder)
    }

    /// The files of a folder in it, by name.
    fn files(&self, within: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(self.0.join(within)).unwrap().map(|entry| entry.unwrap().path());
        let file = |path: PathBuf| Some((path.file_name()?.into(), fs::read(&path).ok()?));
        entries.filter_map(file).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays in the system's own folder of temporary files is no failure.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn parsed<T: Args>(flags: &str, folder: &Path, more: &[&str]) -> Result<T, clap::Error> {
    let words = ["test", "--out", folder.to_str().unwrap()].into_iter().chain(flags.split_whitespace());
    Cli::<T>::try_parse_from(words.chain(more.iter().copied())).map(|cli| cli.options)
}

fn options<T: Args>(flags: &str, folder: &Path, more: &[&str]) -> T {
    parsed(flags, folder, more).unwrap()
}

/// The outcomes of a program whose whole run, and whose run that stops again and again, leave the same files.
fn outcomes<T: Args, R>(
    name: &str,
    flags: &str,
    stop_after: &str,
    run: impl Fn(&T) -> Result<(R, Report)>,
) -> R {
    let (whole, stopping) = (Folder::new(&format!("{name}-whole")), Folder::new(&format!("{name}-stopping")));
    let (outcomes, report) = run(&options(flags, &whole.0, &["--jobs", "1"])).unwrap();
    let mut stops = 0;
    let again = loop {
        match run(&options(flags, &stopping.0, &["--jobs", "2", "--stop-after", stop_after])) {
            Ok((_, report)) => break report,
            Err(error) => assert!(error.is::<Stopped>(), "{error:#}"),
        }
        stops += 1;
    };
    assert!(stops > 1, "it stopped {stops} times");
    assert_eq!(report.table, again.table);
    assert_eq!(report.picture, again.picture);
    for folder in [name.to_owned(), format!("{name}/checkpoints")] {
        let (expected, found) = (whole.files(&folder), stopping.files(&folder));
        assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
        for (name, bytes) in expected {
            assert!(found[&name] == bytes, "{} differs after a stop", name.display());
        }
    }
    assert!(report.picture.starts_with("<svg"));
    outcomes
}

fn falls(what: &str, curve: &Curve, by: f64) {
    let (first, last) = curve.losses().unwrap();
    assert!(first - last > by, "{what}: the loss went from {first} to {last}");
}

#[test]
fn pretrain_learns() {
    let flags = "--seeds 1 --channels 16 --heads 2 --layers 1 --length 24 --batch 8 --steps 40 --rate 1e-2 \
                 --labelled 800 --tuning-steps 120 --tuning-rate 1e-2 --judged 400";
    for outcome in outcomes("pretrain", flags, "300", pretrain::run) {
        let name = outcome.kind.name();
        falls(&format!("{name}, text"), &outcome.learned.pretraining, 1.0);
        for (phase, curve) in ["after it", "from scratch"].iter().zip(&outcome.learned.tuning) {
            falls(&format!("{name}, categories {phase}"), curve, 4.0);
            // Chance is one in eight, and of 400 it is within six deviations of 1.7 %.
            assert!(curve.score() > 0.18, "{name}, {phase}: {}", curve.score());
        }
    }
}

#[test]
fn cross_sequence_is_seen_by_attention_alone() {
    // Two layers that see two tokens each: four to the left, where three and nine are wanted.
    let flags =
        "--seeds 1 --lengths 1,8 --channels 32 --heads 2 --width 5 --batch 32 --steps 240 --rate 5e-3";
    let outcomes = outcomes("cross_sequence", flags, "900", cross_sequence::run);
    for outcome in outcomes {
        let (name, score) = (outcome.arm.name(), outcome.curve.score());
        if outcome.length == 1 || outcome.arm.attends_last {
            assert!(score > 0.9, "{name} at {}: {score}", outcome.length);
        } else {
            // 256 pairs of 8 symbols, half of which are the same: chance is within six deviations of 1.1 %.
            assert!(score < 0.57, "{name} at {}: {score}", outcome.length);
        }
    }
}

#[test]
fn frozen_transfer_learns() {
    let flags = "--seeds 2 --channels 16 --heads 2 --layers 1 --width 5 --text-steps 20 --steps 100 --rates 3e-3,3e-2 \
                 --tasks memory,digits --bits 50 --kinds transformer,dynamic,lstm";
    for outcome in outcomes("frozen_transfer", flags, "700", frozen_transfer::run) {
        let name = format!("{}, {}, {}", outcome.task.name(), outcome.kind.name(), outcome.arm);
        let [learning, all] = outcome.numbers;
        assert_eq!(learning == all, outcome.arm == frozen_transfer::Arm::Full, "{name}: {learning} of {all}");
        // Chance is a half, and one in ten.
        let least = if outcome.task == frozen_transfer::Task::Memory { 0.6 } else { 0.18 };
        for accuracy in outcome.accuracies {
            assert!(accuracy > least, "{name}: {accuracy}");
        }
    }
}

#[test]
fn replaced_token_learns() {
    let flags = "--seeds 1 --channels 32 --generator-part 2 --heads 2 --layers 1 --batch 8 --steps 40 --rate 1e-2 \
                 --labelled 800 --tuning-steps 120 --tuning-rate 1e-2 --judged 400";
    for outcome in outcomes("replaced_token", flags, "300", replaced_token::run) {
        let name = outcome.branch.name();
        falls(&format!("{name}, text"), &outcome.learned.pretraining, 3.0);
        for (phase, curve) in ["after it", "from scratch"].iter().zip(&outcome.learned.tuning) {
            falls(&format!("{name}, categories {phase}"), curve, 0.5);
            assert!(curve.score() > 0.18, "{name}, {phase}: {}", curve.score());
        }
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    let folder = Folder::new("wrong");
    let error = |flags: &str| format!("{:#}", pretrain::run(&options(flags, &folder.0, &[])).err().unwrap());
    assert!(error("--length 1").contains("--length"));
    assert!(error("--length 4000").contains("200 spans of --length 4000: there are 100 sentinels"));
    assert!(error("--labelled 20000").contains("--labelled 20000: there are 10880 definitions"));
    assert!(error("--heads 3").contains("3 heads do not divide 64 channels"));
    assert!(error("--kinds light,dynamic,light").contains("Light is twice in --kinds"));
    assert!(error("--kinds lstm").contains("--kinds"));
    #[cfg(not(feature = "cuda"))]
    assert!(error("--cuda").contains("feature cuda"));
    let refused = |flags: &str| parsed::<pretrain::Options>(flags, &folder.0, &[]).err().unwrap().to_string();
    for flag in
        ["--rate nan", "--rate 0", "--tuning-rate=-1", "--seeds 0", "--batch 0", "--width 0", "--layers 49"]
    {
        let name = flag.split([' ', '=']).next().unwrap();
        assert!(refused(flag).contains(name), "{}", refused(flag));
    }
    let frozen = options("--bits 120", &folder.0, &[]);
    let error = frozen_transfer::run(&frozen).err().unwrap().to_string();
    assert_eq!(error, "120 bits are no 50s: --bits");
    assert!(!folder.0.exists(), "something was made before the options were seen to be wrong");
}

const TINY: &str = "--seeds 1 --lengths 1 --channels 8 --heads 2 --layers 2 --batch 2 --steps 3";

#[test]
fn checkpoints_of_other_plans_are_refused() {
    let folder = Folder::new("plans");
    let run = |more: &[&str]| cross_sequence::run(&options(TINY, &folder.0, more));
    run(&[]).unwrap();
    let error = format!("{:#}", run(&["--rate", "1"]).err().unwrap());
    assert!(error.contains("is no checkpoint of this run") && error.contains("--fresh"), "{error}");
    run(&["--rate", "1", "--fresh"]).unwrap();
    let path = folder.0.join("cross_sequence/checkpoints/light-alone-1-0.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = format!("{:#}", run(&["--rate", "1"]).err().unwrap());
    assert!(error.contains("light-alone-1-0.safetensors is no checkpoint of this run"), "{error}");
}

/// What diverges is told, again and again, and is no chance.
#[test]
fn what_diverges_has_no_score() {
    let folder = Folder::new("diverging");
    for _ in 0..2 {
        let (outcomes, report) = cross_sequence::run(&options(TINY, &folder.0, &["--rate", "1e30"])).unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.curve.score().is_nan()));
        assert_eq!(report.table.matches("diverged").count(), outcomes.len());
    }
}

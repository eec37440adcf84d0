//! The fixtures of other implementations, by the code of the conformance example; and that this code can fail.

#[path = "../../examples/conformance/check/mod.rs"]
mod check;
#[path = "../../examples/conformance/find.rs"]
mod find;

use std::path::{Path, PathBuf};

use check::{Agreement, Fixture, Outcome, Place, Types, Verdict};
use find::Found;
use lightspan::reference::Estimate;
use lightspan::{Backend, DType, Device, Error};

use crate::support::devices;

/// The fixtures: where `LIGHTSPAN_FIXTURES` says, on a machine without the sources.
fn folder() -> PathBuf {
    let given = std::env::var_os("LIGHTSPAN_FIXTURES").map(PathBuf::from);
    given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"))
}

fn fixtures() -> Vec<Fixture> {
    find::find(&folder())
        .into_iter()
        .filter_map(|found| match found {
            Found::Fixture(path) => Some(Fixture::read(&path).unwrap()),
            Found::Model(_) => None,
            Found::Unreadable(path, error) => panic!("{}: {error}", path.display()),
        })
        .collect()
}

fn fixture(name: &str) -> Fixture {
    Fixture::read(&folder().join(name).with_extension("safetensors")).unwrap()
}

fn cpu() -> Place {
    Place::Device(Device::cpu())
}

fn passed(outcome: &Outcome) -> bool {
    outcome.verdict() == Verdict::Passed
}

/// Whether the reference and the CPU both hold to a fixture.
fn passes(fixture: &Fixture) -> [bool; 2] {
    [Place::Reference, cpu()].map(|place| {
        let outcomes = check::check(fixture, &place, &[DType::F32], false);
        assert!(!outcomes.is_empty(), "{} on {place}", fixture.name);
        outcomes.iter().all(passed)
    })
}

#[test]
fn every_fixture_passes() {
    let fixtures = fixtures();
    let count = |op: &str| fixtures.iter().filter(|fixture| fixture.text("op").unwrap() == op).count();
    let counts = ["light_conv", "dynamic_conv", "span_conv", "attention"].map(count);
    assert_eq!(counts, [12, 11, 5, 5]);
    assert_eq!(fixtures.len(), 33);
    // The forward and the backward pass; three types; convolutions with 16 bits come once more, with f32 parameters; attention comes in two forms.
    // (wgpu has a run of the example.)
    let devices = devices().into_iter().filter(|device| device.backend() != Backend::Wgpu);
    let places = devices.map(|device| (Place::Device(device), 2 * ((12 + 11 + 5) * 5 + 5 * 2 * 3)));
    for (place, expected) in places.chain([(Place::Reference, 2 * 33)]) {
        let outcomes: Vec<Outcome> =
            fixtures.iter().flat_map(|fixture| check::check(fixture, &place, &DType::ALL, true)).collect();
        for outcome in &outcomes {
            assert!(passed(outcome), "{} {place} {}: {:?}", outcome.case, outcome.types, outcome.result);
        }
        assert_eq!(outcomes.len(), expected, "{place}");
    }
}

#[test]
fn only_what_the_backend_lacks_is_skipped() {
    let verdict = |result| {
        let (case, types) = ("a case".to_owned(), Types::Exact);
        Outcome { case, types, result }.verdict()
    };
    let agreement =
        |got: f64| Agreement::of(&[Estimate { value: 1.0, bound: 0.1 }], &[got], DType::F32, &[1]);
    assert_eq!(verdict(agreement(1.0)), Verdict::Passed);
    assert_eq!(verdict(agreement(2.0)), Verdict::Failed);
    let unavailable = Error::Unavailable { backend: "cuda", reason: "no kernels".to_owned() };
    assert_eq!(verdict(Err(unavailable.into())), Verdict::Skipped);
    let lost = Error::DeviceLost { reason: "unplugged".to_owned() };
    for fault in [lost.into(), "cuda is not available: these are words".into()] {
        assert_eq!(verdict(Err(fault)), Verdict::Failed);
    }
}

#[test]
fn models_are_found() {
    let models: Vec<String> = find::find(&folder())
        .into_iter()
        .filter_map(|found| match found {
            Found::Model(path) => Some(Fixture::name(&path)),
            _ => None,
        })
        .collect();
    let expected = ["convbert_tiny", "convbert_tiny_grouped", "seq2seq_dynamic_tiny", "seq2seq_light_tiny"];
    assert_eq!(models, expected);
}

/// The models of transformers and fairseq, on every backend.
#[cfg(feature = "models")]
#[test]
fn every_model_passes() {
    for device in devices() {
        for found in find::find(&folder()) {
            let Found::Model(path) = found else { continue };
            let outcome = check::check_model(&path, Fixture::name(&path), &device);
            assert!(passed(&outcome), "{} on {device}: {:?}", outcome.case, outcome.result);
        }
    }
}

#[test]
fn wrong_numbers_fail() {
    for fixture in fixtures() {
        assert_eq!(passes(&fixture), [true; 2], "{}", fixture.name);
        let y = &fixture.tensors["y"];
        for element in [0, y.values.len() / 2, y.values.len() - 1] {
            let mut wrong = fixture.clone();
            wrong.tensors.get_mut("y").unwrap().values[element] += 1e-10;
            assert_eq!(passes(&wrong), [false; 2], "{}: y off by 1e-10 at {element}", fixture.name);
        }
        let tokens = if fixture.text("op").unwrap() == "attention" { "v" } else { "x" };
        let mut wrong = fixture.clone();
        wrong.tensors.get_mut(tokens).unwrap().values[0] += 1e-3;
        assert_eq!(passes(&wrong), [false; 2], "{}: {tokens} off by 1e-3", fixture.name);
    }
}

#[test]
fn missing_and_misshapen_tensors_fail() {
    for fixture in fixtures() {
        let gradients: Vec<String> = fixture.tensors.keys().map(|name| format!("d{name}")).collect();
        let all = fixture.tensors.keys().chain(fixture.integers.keys());
        for name in all.filter(|&name| !gradients.contains(name)) {
            let mut missing = fixture.clone();
            missing.tensors.remove(name);
            missing.integers.remove(name);
            assert_eq!(passes(&missing), [false; 2], "{} without {name}", fixture.name);

            let mut deeper = fixture.clone();
            deeper.tensors.entry(name.clone()).and_modify(|tensor| tensor.shape.push(1));
            deeper.integers.entry(name.clone()).and_modify(|tensor| tensor.shape.push(1));
            assert_eq!(passes(&deeper), [false; 2], "{} with one more axis for {name}", fixture.name);

            let mut longer = fixture.clone();
            longer.tensors.entry(name.clone()).and_modify(|tensor| {
                tensor.values.extend(tensor.values.clone());
                tensor.shape[0] *= 2;
            });
            longer.integers.entry(name.clone()).and_modify(|tensor| {
                tensor.values.extend(tensor.values.clone());
                tensor.shape[0] *= 2;
            });
            assert_eq!(passes(&longer), [false; 2], "{} with {name} twice as long", fixture.name);
        }
        for (name, lengths) in &fixture.integers {
            for wrong in [-1, i64::MIN, i64::MAX] {
                let mut bad = fixture.clone();
                let mut lengths = lengths.clone();
                lengths.values[0] = wrong;
                bad.integers.insert(name.clone(), lengths);
                assert_eq!(passes(&bad), [false; 2], "{} with {name} of {wrong}", fixture.name);
            }
        }
    }
}

#[test]
fn unknown_operators_fail() {
    let mut unknown = fixture("light_k3_same");
    unknown.metadata.insert("op".to_owned(), "heavy_conv".to_owned());
    let outcomes = check::check(&unknown, &cpu(), &DType::ALL, false);
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].result.as_ref().unwrap_err().to_string(), "op \"heavy_conv\" is not known");
}

#[test]
fn bad_metadata_fails() {
    for fixture in fixtures() {
        for key in fixture.metadata.keys().filter(|&key| key != "source") {
            let mut missing = fixture.clone();
            missing.metadata.remove(key);
            assert_eq!(passes(&missing), [false; 2], "{} without {key}", fixture.name);
            for value in ["", "nonsense", "-1", "NaN"] {
                let mut bad = fixture.clone();
                bad.metadata.insert(key.clone(), value.to_owned());
                assert_eq!(passes(&bad), [false; 2], "{} with {key} {value:?}", fixture.name);
            }
            // These make sense here and there (one tap has no use for a dilation): they must not panic.
            for value in ["0", "1", "7", "18446744073709551615", "9223372036854775807", "1e300"] {
                let mut odd = fixture.clone();
                odd.metadata.insert(key.clone(), value.to_owned());
                passes(&odd);
            }
        }
    }
}

#[test]
fn truncated_files_are_errors() {
    let path = folder().join("light_k7_same_padded.safetensors");
    let bytes = std::fs::read(path).unwrap();
    assert!(Fixture::parse("whole".to_owned(), &bytes).is_ok());
    for length in 0..bytes.len() {
        assert!(Fixture::parse("truncated".to_owned(), &bytes[..length]).is_err(), "{length} bytes");
    }
    assert!(Fixture::read(&folder().join("nowhere.safetensors")).is_err());
}

#[test]
fn wrong_gradients_fail() {
    for fixture in fixtures() {
        let gradients = |fixture: &Fixture| {
            [Place::Reference, cpu()].map(|place| {
                let outcomes = check::check(fixture, &place, &[DType::F32], true);
                let of_gradients = |outcome: &&Outcome| outcome.case.ends_with(" gradients");
                let (gradients, forward): (Vec<_>, Vec<_>) = outcomes.iter().partition(of_gradients);
                assert!(!gradients.is_empty() && gradients.len() == forward.len());
                assert!(forward.into_iter().all(passed), "{} on {place}", fixture.name);
                gradients.into_iter().all(passed)
            })
        };
        assert_eq!(gradients(&fixture), [true; 2], "{}", fixture.name);
        let named = |name: &&String| *name != "dy" && name.starts_with('d') && *name != "depthwise";
        let names: Vec<&String> = fixture.tensors.keys().filter(named).collect();
        assert!(names.len() > 1, "{}: {names:?}", fixture.name);
        for name in names {
            let mut wrong = fixture.clone();
            *wrong.tensors.get_mut(name).unwrap().values.last_mut().unwrap() += 1e-9;
            assert_eq!(gradients(&wrong), [false; 2], "{}: {name} off by 1e-9", fixture.name);
        }
    }
}

#[test]
fn agreement_is_an_estimate_for_each_element() {
    let expected = [(1.0, 0.1), (2.0, 0.1), (0.0, 0.0)].map(|(value, bound)| Estimate { value, bound });
    let agreement = |got: &[f64]| Agreement::of(&expected, got, DType::F32, &[1, 3]).unwrap();
    assert!(agreement(&[1.05, 2.0, 0.0]).holds());
    assert_eq!(agreement(&[1.0, 1.95, 0.0]).to_string(), "error 5.00e-2, allowed 1.00e-1");
    let wrong = agreement(&[1.0, 2.3, 0.0]);
    assert!(!wrong.holds());
    assert_eq!(wrong.to_string(), "error 3.00e-1, allowed 1.00e-1, at [0, 1]; 1 of 3 values are wrong");
    assert!(!agreement(&[1.0, 2.0, 1e-300]).holds());
    assert!(!agreement(&[f64::NAN, 2.0, 0.0]).holds());
    assert!(!agreement(&[f64::INFINITY, 2.0, 0.0]).holds());
    assert!(Agreement::of(&expected, &[1.0], DType::F32, &[3]).is_err());
}

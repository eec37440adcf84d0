//! Plans of embeddings and of the largest numbers of rows.

use std::collections::BTreeSet;

use super::{DEVICES, assert_there, sequences, types};
use crate::cuda::plan::Place;
use crate::cuda::{embedding, top_k};
use crate::gpu::listed;
use crate::problem::{EmbeddingProblem, TopKProblem};
use crate::{DType, Error};

#[test]
fn every_embedding_has_a_plan() {
    let mut entries = BTreeSet::new();
    for sequences in sequences() {
        for channels in [1, 2, 6, 12, 1000, 1024, 100_000] {
            for (dtype, parameters) in types() {
                let shape = sequences.shape();
                let problem = EmbeddingProblem::of_sequences(shape, 30_000, channels, dtype)
                    .and_then(|problem| {
                        problem.with_parameters(parameters)?.with_positions(512, 2)?.with_types(2)
                    })
                    .unwrap();
                let places = embedding::Places::contiguous(&problem);
                let away = Place { address: parameters.size() as u64, stride: channels };
                for places in [
                    places,
                    embedding::Places { table: away, ..places },
                    embedding::Places { positions: Some(away), ..places },
                    embedding::Places { types: Some(Place { stride: channels + 1, ..away }), ..places },
                ] {
                    for limits in &DEVICES {
                        let launch = embedding::plan(&problem, &places, listed(shape), limits);
                        match launch {
                            Ok(Some(launch)) => {
                                assert_there(&launch);
                                entries.insert((launch.module.name, launch.entry));
                            }
                            Ok(None) => assert_eq!(shape.tokens(), 0),
                            Err(error) => panic!("{problem:?}: {error}"),
                        }
                    }
                }
            }
        }
    }
    assert_eq!(entries.len(), 11, "{entries:?}");
}

#[test]
fn every_row_has_a_plan() {
    for (rows, vocabulary, k) in [(0, 1, 1), (1, 1, 1), (512, 50_265, 5), (3, 9, 9), (1 << 20, 8, 1)] {
        for dtype in DType::ALL {
            let problem = TopKProblem::new(rows, vocabulary, k, dtype).unwrap();
            for limits in &DEVICES {
                match top_k::plan(&problem, [vocabulary, k].map(Place::contiguous), limits).unwrap() {
                    Some(launch) => assert_there(&launch),
                    None => assert_eq!(rows, 0),
                }
            }
        }
    }
    let long = TopKProblem::new(1, 1 << 31, 1, DType::F16).unwrap();
    let error =
        Error::Limit { what: "elements along an axis of", of: "x", needed: 1 << 31, limit: (1 << 31) - 1 };
    assert_eq!(top_k::plan(&long, [0, 0].map(Place::contiguous), &DEVICES[0]).map(drop), Err(error));
}

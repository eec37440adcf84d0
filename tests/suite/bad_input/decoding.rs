//! What a decoder's memories refuse: the history of its convolutions, and the keys and values of its attention.

use super::*;

#[test]
fn history() {
    let (x, kept) = (zeros([2, 5, 6], F32), zeros([2, 3, 6], F32));
    let run = |x: &Tensor, kept: &Tensor, window| ops::history(x, kept, window, None);
    let causal = Window::causal(4).unwrap();
    each([
        (run(&x, &x, causal), shape("history", [2, 3, 6], [2, 5, 6])),
        (run(&x, &kept, window(4)), Error::HistoryNotCausal { left: 1, width: 4, dilation: 1, reach: 3 }),
        (run(&x, &zeros([2, 3, 6], BF16), causal), dtype("history", F32, BF16)),
    ]);
    let into = |mut next: Tensor| ops::history_into(&mut next, &x, &kept, causal, None);
    each([
        (into(zeros([2, 5, 6], F32)), shape("next", [2, 3, 6], [2, 5, 6])),
        (into(zeros([2, 3, 6], F16)), dtype("next", F32, F16)),
    ]);
}

#[test]
fn append() {
    let (cache, x) = (zeros([2, 8, 6], F32), zeros([2, 5, 6], F32));
    let sequences = Sequences::padded(5, &[5, 3]).unwrap().after(&[3, 5]).unwrap();
    let run = |mut cache: Tensor, x: &Tensor, sequences: &Sequences| ops::append(&mut cache, x, sequences);
    let after = |past| sequences.clone().after(past).unwrap();
    let packed = Sequences::packed(&[0, 4, 10]).unwrap();
    let room = |sequence, tokens, room| Error::CacheRoom { sequence, tokens, room };
    run(zeros([2, 8, 6], F32), &x, &sequences).unwrap();
    each([
        (run(zeros([2, 8, 6], F32), &x, &after(&[4, 5])), room(0, 9, 8)),
        (run(zeros([2, 8, 6], F32), &x, &after(&[7, 9])), room(0, 12, 8)),
        (run(zeros([2, 8, 6], F32), &x, &after(&[0, 6])), room(1, 9, 8)),
        (run(zeros([2, 4, 6], F32), &x, &after(&[0, 0])), room(0, 5, 4)),
        // No room for what a sequence without new tokens is said to have.
        (run(cache, &x, &Sequences::padded(5, &[0, 0]).unwrap().after(&[0, 9]).unwrap()), room(1, 9, 8)),
        (run(zeros([2, 0, 6], F32), &x, &sequences), Error::ZeroSize { what: "room" }),
        (run(zeros([3, 8, 6], F32), &x, &sequences), shape("cache", [2, 8, 6], [3, 8, 6])),
        (run(zeros([2, 8, 7], F32), &x, &sequences), shape("cache", [2, 8, 6], [2, 8, 7])),
        (run(zeros([16, 6], F32), &x, &sequences), any_shape("cache", [Some(2), None, Some(6)], [16, 6])),
        (run(zeros([2, 8, 6], F16), &x, &sequences), dtype("cache", F32, F16)),
        (
            run(zeros([2, 8, 6], F32), &zeros([2, 4, 6], F32), &sequences),
            any_shape("x", [Some(2), Some(5), None], [2, 4, 6]),
        ),
        (run(zeros([2, 8, 6], F32), &x, &packed), any_shape("x", [Some(10), None], [2, 5, 6])),
        (
            run(zeros([2, 8, 0], F32), &zeros([2, 5, 0], F32), &sequences),
            Error::ZeroSize { what: "channels" },
        ),
    ]);
}

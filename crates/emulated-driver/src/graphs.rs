//! Graphs: what was captured, to be run again.

use std::ffi::{c_int, c_ulonglong};

use crate::codes::{CAPTURE_UNMATCHED, Code, SUCCESS};
use crate::modules::Work;
use crate::streams::{Stream, captures};

/// The launches of a capture, in their order.
pub(crate) struct Graph(Vec<Work>);

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: Stream, _mode: c_int) -> Code {
    stream.begin_capture().map_or(CAPTURE_UNMATCHED, |()| SUCCESS)
}

/// # Safety
///
/// `graph` is valid for one write.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(stream: Stream, graph: *mut *mut Graph) -> Code {
    let Some(capture) = captures().remove(&stream) else {
        return CAPTURE_UNMATCHED;
    };
    // SAFETY: the caller's promise.
    unsafe { graph.write(Box::into_raw(Box::new(Graph(capture.work)))) };
    SUCCESS
}

/// # Safety
///
/// `executable` is valid for one write, and `graph` came from a capture.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut *mut Graph,
    graph: *const Graph,
    _flags: c_ulonglong,
) -> Code {
    // SAFETY: the caller's promise.
    let work = unsafe { &*graph }.0.clone();
    // SAFETY: the caller's promise.
    unsafe { executable.write(Box::into_raw(Box::new(Graph(work)))) };
    SUCCESS
}

/// # Safety
///
/// `executable` came from `cuGraphInstantiateWithFlags`, and what it runs on is still there.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphLaunch(executable: *const Graph, stream: Stream) -> Code {
    // SAFETY: the caller's promise.
    let graph = unsafe { &*executable };
    // SAFETY: the caller's promise.
    let run = |work: &Work| unsafe { work.run() };
    stream.uncaptured(|| graph.0.iter().map(run).find(|&code| code != SUCCESS).unwrap_or(SUCCESS))
}

/// # Safety
///
/// `graph` came from a capture, and is not used again.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphDestroy(graph: *mut Graph) -> Code {
    // SAFETY: it came from `Box::into_raw` and is given back once.
    drop(unsafe { Box::from_raw(graph) });
    SUCCESS
}

/// # Safety
///
/// `executable` came from `cuGraphInstantiateWithFlags`, and is not used again.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecDestroy(executable: *mut Graph) -> Code {
    // SAFETY: it came from `Box::into_raw` and is given back once.
    drop(unsafe { Box::from_raw(executable) });
    SUCCESS
}

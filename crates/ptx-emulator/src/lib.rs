//! Runs PTX on the CPU: a tester for CUDA kernels on machines with no GPU.
//!
//! It takes PTX as NVRTC 12.4 writes it (ISA 8.4, for `sm_80`), runs a grid of blocks over buffers, checks every access
//! and counts the traffic. It is no model of time, and nothing that it reports says how fast a kernel is on a device.
//!
//! ```
//! use ptx_emulator::{Arg, Launch, Memory, Module};
//!
//! let source = ".version 8.4
//!     .target sm_80
//!     .address_size 64
//!     .visible .entry triple(.param .u64 to) {
//!         .reg .b32 %r<3>;
//!         .reg .b64 %rd<4>;
//!         ld.param.u64 %rd1, [to];
//!         mov.u32 %r1, %tid.x;
//!         mul.lo.u32 %r2, %r1, 3;
//!         mul.wide.u32 %rd2, %r1, 4;
//!         add.s64 %rd3, %rd1, %rd2;
//!         st.global.u32 [%rd3], %r2;
//!         ret;
//!     }";
//! let memory = Memory::new();
//! let module = Module::load(source, &memory)?;
//! let to = memory.allocate("to", 4 * 64)?;
//! let profile = module.launch("triple", &Launch::linear(1, 64), &[Arg::U64(to)], &memory)?;
//! assert_eq!(memory.read(to + 4 * 63, 4)?, 189u32.to_le_bytes());
//! assert_eq!(profile.global_stores.sectors, 8);
//!
//! // One thread too many: the report names the line, the thread, the address and the allocation.
//! let error = module.launch("triple", &Launch::linear(1, 65), &[Arg::U64(to)], &memory).unwrap_err();
//! assert!(error.to_string().contains("thread [64, 0, 0]"));
//! assert!(error.to_string().contains("byte 256 of `to`, which has 256"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it runs
//!
//! Instructions are admitted as kernels come to need them. An instruction, a directive or a modifier that is not known
//! is an error when the module is loaded, with its line and text; nothing is guessed, and no function but an entry is
//! run. Today there are:
//!
//! - integers and bits: `add sub mul mad div rem min max neg abs and or xor not shl shr popc clz brev bfind bfe bfi
//!   lop3 prmt shf dp4a mul24 mad24`, of 16, 32 and 64 bits; `add sub mad` with carries;
//! - floats: `add sub mul fma mad div rcp sqrt min max neg abs` of f32 (`.ftz`, `.sat`) and f64, rounded to nearest
//!   even; `add sub mul fma` of f32 rounded toward zero, down and up (`expf` is made of these too);
//!   `add sub mul fma min max neg abs` of f16 and bf16 and their pairs; f32's `.approx` and `.full` functions;
//! - `setp` with its combinations, `selp`, `slct`, `mov` with packing, special registers and addresses of variables and
//!   parameters, `cvt` between all integers and floats in every rounding mode, with `.sat`, `.ftz` and `.relu`, and into
//!   pairs; `cvta` and `isspacep`;
//! - `ld` and `st` of every space, also generic and as vectors; `atom` and `red`; `cp.async` with groups; `ldmatrix`;
//!   `mma.sync` of `m16n8k8` and `m16n8k16` for f16 and bf16 with f32 sums;
//! - `bra`, `brx.idx`, `ret`, `exit`, `trap`; `bar.sync`, `barrier.sync` and their `.red`; `bar.warp.sync shfl vote match
//!   activemask redux membar fence nanosleep`.
//!
//! Not yet, among much else: functions and `call`, `printf`, textures, directed rounding of other arithmetic, halves' approximate functions, FP8, TF32, integer and f64 matrices, f16 sums in `mma.sync`, `wmma`,
//! `movmatrix`, `stmatrix`, barriers of a part of a block, `bar.arrive`, `mbarrier`, clusters, TMA, `wgmma`, clocks.
//!
//! `.loc`, `.file`, `.pragma`, `.section` with what is in it, linkage, `.minnctapersm` and `.maxnreg` are read and have
//! no effect. `.maxntid` and `.reqntid` are held against the launch. Cache and eviction modifiers of a closed list are
//! read and have no effect.
//!
//! # What it checks
//!
//! Each is a [`Fault`] that names kernel, line, block, thread and address; of several faulting blocks, the first is
//! reported, every time.
//!
//! - Accesses out of bounds. Allocations lie 64 GiB apart, and parameters 64 KiB, so that no overrun lands in another.
//!   Within shared and local memory, bounds are those of the whole and not of each variable.
//! - Accesses to what was freed, by the name that it had.
//! - Misaligned accesses, a row of `ldmatrix` among them.
//! - Reads of bytes that nobody wrote, in every space. Registers are not checked: they begin as zeros.
//! - Races in shared memory: two threads and one byte, one of them writing, with no barrier of the block between, nor,
//!   in one warp, a `bar.warp.sync` of all its live lanes. One of a part of the lanes orders nothing here, and so may
//!   give a false alarm. Two equal values written to a byte are a race too. A row that `ldmatrix` reads counts as read
//!   by the lane that gave its address.
//! - Barriers that some thread of the block does not reach, or at which threads wait at different places.
//! - Warp instructions that a lane of their mask does not reach, lanes outside their own mask, shuffles that read
//!   from lanes that are not there, matrix instructions in a warp that is not whole.
//! - Shared memory that a `cp.async` is to fill, read or written before the thread that sent the copy waited for it; and
//!   then read by another thread with no barrier between. A copy that nobody waits for never lands.
//! - Traps, and indexed branches past their table.
//!
//! Races in global memory, between blocks or within one, are not looked for. [`Memory::unwritten`] tells which bytes a
//! kernel left out, or has not touched.
//!
//! # What it counts
//!
//! A [`Profile`] has instructions by class, global traffic in bytes and sectors of 32 bytes, and passes over the banks
//! of shared memory, as a whole and for each line of the PTX. An instruction of a warp takes each sector that it touches
//! once, whatever caches would do. [`Banks`] says how accesses of each width are served; [`Profile::conflicts`] names the
//! lines that take more passes than they must, and [`Module::line`] has their text. Asynchronous copies are global loads
//! and shared stores.
//!
//! # How it runs
//!
//! A warp is 32 lanes in lockstep. Where lanes part, those at the lowest instruction run first; lanes at one instruction
//! join. So paths meet again where they join in the text, also when the compiler moved a part of one elsewhere, and
//! `.sync` instructions hold lanes back until all that the mask names are there. Nothing promises progress to a lane
//! that another one spins for: such a kernel ends at [`Launch::instruction_limit`]. The warps of a block take turns from
//! barrier to barrier, and so a kernel in which one warp spins for another ends there too.
//!
//! Blocks run at the same time, and results and counts are the same every time. Kernels with atomics on global memory
//! run block after block, for the order of blocks would show in them. The first blocks run on the thread that launches:
//! others are started once there was enough to do to be worth it, and none for a few small blocks.
//!
//! [`Memory`] is used through a shared reference, and so is a [`Module`]: several threads may launch at the same time
//! with no lock around either.
//!
//! Integers, conversions and arithmetic are exact as PTX defines it, with canonical NaNs (`7fffffff` of f32, `7fff` of
//! both halves). Division by zero, which PTX leaves open, gives all ones. Each approximate function is the f64 result
//! rounded to f32, within PTX's bound for it; `div.approx` gives zero where PTX requires it, and a `.approx` result is
//! never a device's to the last bit. `mma.sync` sums exact products in f64, in order of depth, and rounds once to f32;
//! devices do it in ways of their own. No result here has been compared with a device's yet.
//!
//! With all checks on, it ran some 200 to 500 million thread-instructions a second of CPU time on one core (AVX-512),
//! fewest where a kernel is all loads and stores or matrices, and about as fast with optimisation level 2 and debug
//! assertions as in release (`cargo run --release --example rate`; that one reports by the clock on the wall).
//!
//! # Why a parser of its own
//!
//! Of the crates that parse PTX, judged by what they say of themselves and not tried: `ptx-parser` stopped in 2023 short
//! of its planned interface; `ptx-90-parser` is deprecated for `ptx-syntax`; that one and `singe-ptx` are young and follow
//! PTX 9. They would save the tokens and the trees. What decides here would remain to be written over their types: that
//! each modifier is one the machine honours, and that a refusal names line and text. The part of PTX that a compiler
//! writes is small and regular, and all of the reading here is a few hundred lines.

mod allocation;
mod arith;
mod ast;
mod decode;
mod error;
mod fault;
mod lex;
mod machine;
mod memory;
mod operands;
mod parse;
mod parse_body;
mod profile;
mod program;
mod types;

pub use error::{ParseError, Refusal};
pub use fault::{Fault, FaultKind, Nearest, Space};
pub use machine::launch::{Arg, Launch, LaunchError, LoadError, Module};
pub use memory::{Memory, MemoryError};
pub use profile::{Banks, Class, Instructions, Line, Profile, Traffic};

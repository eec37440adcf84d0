//! Loads, stores, atomics and asynchronous copies.

use crate::arith::Lanes;
use crate::fault::{FaultKind, Nearest, Space};
use crate::machine::block::Block;
use crate::machine::warp::{Pending, Warp};
use crate::machine::{Outcome, atomic, lanes};
use crate::program::{
    Address, Atomic, LOCAL_WINDOW, OWN_BASE, PARAM_WINDOW, Reg, SHARED_WINDOW, WINDOW_BYTES,
};
use crate::types::Type;

/// Refuses an address that is no multiple of the bytes accessed.
pub(crate) fn checked(space: Space, address: u64, bytes: u64) -> Result<(), FaultKind> {
    if address.is_multiple_of(bytes) { Ok(()) } else { Err(FaultKind::Misaligned { space, address, bytes }) }
}

/// The space that an address is in, and the address there.
fn resolve(space: Space, address: u64) -> (Space, u64) {
    if space != Space::Generic {
        return (space, address);
    }
    let windows =
        [(SHARED_WINDOW, Space::Shared), (LOCAL_WINDOW, Space::Local), (PARAM_WINDOW, Space::Param)];
    let found = windows.into_iter().find(|&(at, _)| (at..at + WINDOW_BYTES).contains(&address));
    found.map_or((Space::Global, address), |(at, space)| (space, address - at))
}

fn addresses(warp: &Warp, at: Address) -> Lanes {
    warp.register(at.base).map(|a| a.wrapping_add_signed(at.offset))
}

/// The lanes whose addresses are in each of the spaces that are counted.
struct Spaces {
    global: u32,
    shared: u32,
}

fn spaces(space: Space, addresses: &mut Lanes, active: u32) -> Spaces {
    let mut out = Spaces { global: 0, shared: 0 };
    match space {
        Space::Global => out.global = active,
        Space::Shared => out.shared = active,
        Space::Local | Space::Param => {}
        Space::Generic => {
            for lane in lanes(active) {
                match resolve(space, addresses[lane]) {
                    (Space::Shared, own) => {
                        addresses[lane] = own;
                        out.shared |= 1 << lane;
                    }
                    (Space::Global, _) => out.global |= 1 << lane,
                    _ => {}
                }
            }
        }
    }
    out
}

impl Block<'_> {
    #[expect(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(crate) fn load(
        &mut self,
        warp: &mut Warp,
        active: u32,
        space: Space,
        bytes: u64,
        sign: Option<u32>,
        to: &[Option<Reg>],
        at: Address,
    ) -> Outcome<()> {
        let mut addresses = addresses(warp, at);
        let total = bytes * to.len() as u64;
        for lane in lanes(active) {
            let (space, address) = resolve(space, addresses[lane]);
            let fault = |e| (lane as u32, e);
            checked(space, address, total).map_err(fault)?;
            // Bounds are those of the whole access: a vector is one.
            let held = match space {
                Space::Global => Some(self.memory.locate(address, total).map_err(fault)?),
                _ => None,
            };
            for (i, to) in to.iter().enumerate() {
                let step = i as u64 * bytes;
                let value = match held {
                    Some((allocation, offset)) => allocation
                        .load(offset + step, bytes)
                        .ok_or_else(|| allocation.uninitialised(address + step, offset + step, bytes)),
                    None => self.load_own(warp, lane, space, address + step, bytes),
                };
                let value = value.map_err(fault)?;
                if let Some(to) = to {
                    let value = match sign {
                        Some(register) => {
                            let unused = 64 - 8 * bytes;
                            (((value << unused) as i64 >> unused) as u64) & (u64::MAX >> (64 - register))
                        }
                        None => value,
                    };
                    warp.registers[*to as usize][lane] = value;
                }
            }
        }
        let spaces = spaces(space, &mut addresses, active);
        self.profile.global_loads.count(&addresses, spaces.global, total);
        self.profile.shared_loads.count(&addresses, spaces.shared, total);
        Ok(())
    }

    fn load_own(
        &mut self,
        warp: &Warp,
        lane: usize,
        space: Space,
        address: u64,
        bytes: u64,
    ) -> Result<u64, FaultKind> {
        match space {
            Space::Shared => self.shared.load(address, bytes, warp.who(lane as u32)),
            Space::Local => {
                let range = self.local_range(lane, address, bytes)?;
                if !warp.local_written[range.clone()].iter().all(|&w| w) {
                    return Err(FaultKind::Uninitialised { space, address, bytes, nearest: None });
                }
                Ok(number(&warp.local[range]))
            }
            _ => Ok(number(&self.params[self.program.locate_param(address, bytes)?])),
        }
    }

    fn local_range(
        &self,
        lane: usize,
        address: u64,
        bytes: u64,
    ) -> Result<std::ops::Range<usize>, FaultKind> {
        let length = self.program.local_bytes;
        let start = address.wrapping_sub(OWN_BASE);
        if start >= length || bytes > length - start {
            let nearest = Some(Nearest { name: "local memory".into(), length, offset: start as i64 });
            return Err(FaultKind::OutOfBounds { space: Space::Local, address, bytes, nearest });
        }
        let start = lane * length as usize + start as usize;
        Ok(start..start + bytes as usize)
    }

    pub(crate) fn store(
        &mut self,
        warp: &mut Warp,
        active: u32,
        space: Space,
        bytes: u64,
        from: &[Reg],
        at: Address,
    ) -> Outcome<()> {
        let mut addresses = addresses(warp, at);
        let total = bytes * from.len() as u64;
        for lane in lanes(active) {
            let (space, address) = resolve(space, addresses[lane]);
            let fault = |e| (lane as u32, e);
            checked(space, address, total).map_err(fault)?;
            let held = match space {
                Space::Global => Some(self.memory.locate(address, total).map_err(fault)?),
                _ => None,
            };
            for (i, from) in from.iter().enumerate() {
                let value = warp.register(*from)[lane];
                let step = i as u64 * bytes;
                match (held, space) {
                    (Some((allocation, _)), _) if allocation.is_read_only() => {
                        return Err(fault(FaultKind::ReadOnly { address }));
                    }
                    (Some((allocation, offset)), _) => allocation.store(offset + step, bytes, value),
                    (None, Space::Shared) => {
                        self.shared
                            .store(address + step, bytes, value, warp.who(lane as u32))
                            .map_err(fault)?;
                    }
                    (None, Space::Param) => return Err(fault(FaultKind::ReadOnly { address })),
                    _ => {
                        let range = self.local_range(lane, address + step, bytes).map_err(fault)?;
                        warp.local[range.clone()].copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
                        warp.local_written[range].fill(true);
                    }
                }
            }
        }
        let spaces = spaces(space, &mut addresses, active);
        self.profile.global_stores.count(&addresses, spaces.global, total);
        self.profile.shared_stores.count(&addresses, spaces.shared, total);
        Ok(())
    }

    /// Lanes go one after another, lowest first.
    #[expect(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(crate) fn atomic(
        &mut self,
        warp: &mut Warp,
        active: u32,
        space: Space,
        what: Atomic,
        ty: Type,
        to: Option<Reg>,
        at: Address,
        from: [Reg; 2],
    ) -> Outcome<()> {
        let mut addresses = addresses(warp, at);
        let bytes = ty.bytes();
        let mut out = [0; 32];
        for lane in lanes(active) {
            let (space, address) = resolve(space, addresses[lane]);
            let fault = |e| (lane as u32, e);
            checked(space, address, bytes).map_err(fault)?;
            let (b, c) = (warp.register(from[0])[lane], warp.register(from[1])[lane]);
            let change = |old| atomic::apply(what, ty, old, b, c);
            out[lane] = match space {
                Space::Shared => {
                    self.shared.update(address, bytes, warp.who(lane as u32), change).map_err(fault)?
                }
                Space::Global => {
                    let (allocation, offset) = self.memory.locate(address, bytes).map_err(fault)?;
                    if allocation.is_read_only() {
                        return Err(fault(FaultKind::ReadOnly { address }));
                    }
                    // Kernels with global atomics run their blocks one after another: nobody is in between.
                    let old = allocation
                        .load(offset, bytes)
                        .ok_or_else(|| fault(allocation.uninitialised(address, offset, bytes)))?;
                    allocation.store(offset, bytes, change(old));
                    old
                }
                _ => return Err(fault(FaultKind::Unsupported("an atomic on local or parameter memory"))),
            };
        }
        if let Some(to) = to {
            warp.set(to, &out, active);
        }
        let spaces = spaces(space, &mut addresses, active);
        self.profile.global_loads.count(&addresses, spaces.global, bytes);
        self.profile.global_stores.count(&addresses, spaces.global, bytes);
        Ok(())
    }

    pub(crate) fn async_copy(
        &mut self,
        warp: &mut Warp,
        active: u32,
        bytes: u64,
        to: Address,
        from: Address,
        source_bytes: Option<Reg>,
    ) -> Outcome<()> {
        let (to, from) = (addresses(warp, to), addresses(warp, from));
        let mut reading = 0;
        for lane in lanes(active) {
            let fault = |e| (lane as u32, e);
            checked(Space::Shared, to[lane], bytes).map_err(fault)?;
            checked(Space::Global, from[lane], bytes).map_err(fault)?;
            let wanted = source_bytes.map_or(bytes, |r| warp.register(r)[lane]);
            if wanted > bytes {
                return Err(fault(FaultKind::Unsupported("a cp.async that reads more than it writes")));
            }
            // What is not read is zero; nothing at all may be read, and then the source may be anywhere.
            let mut data = vec![0; bytes as usize];
            if wanted > 0 {
                let (allocation, offset) = self.memory.locate(from[lane], wanted).map_err(fault)?;
                for (i, byte) in data[..wanted as usize].iter_mut().enumerate() {
                    let at = offset + i as u64;
                    let value = allocation.load(at, 1);
                    *byte =
                        value.ok_or_else(|| fault(allocation.uninitialised(from[lane], at, bytes)))? as u8;
                }
                reading |= 1 << lane;
            }
            self.shared.depart(to[lane], bytes, warp.who(lane as u32)).map_err(fault)?;
            let group = warp.committed[lane];
            warp.pending.push(Pending { lane: lane as u32, group, to: to[lane], data });
        }
        self.profile.global_loads.count(&from, reading, bytes);
        Ok(())
    }

    /// Lands the copies of these lanes that must have arrived when `left` groups may still be on their way.
    pub(crate) fn async_wait(
        &mut self,
        warp: &mut Warp,
        active: u32,
        left: u64,
        uncommitted: bool,
    ) -> Outcome<()> {
        for pending in std::mem::take(&mut warp.pending) {
            let committed = warp.committed[pending.lane as usize];
            let awaited = uncommitted || pending.group < committed.saturating_sub(left);
            if active >> pending.lane & 1 == 0 || !awaited {
                warp.pending.push(pending);
                continue;
            }
            let who = warp.who(pending.lane);
            self.shared.arrive(pending.to, &pending.data, who).map_err(|e| (pending.lane, e))?;
        }
        Ok(())
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

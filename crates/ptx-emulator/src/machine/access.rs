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

/// Refuses an address that is no multiple of the bytes accessed, which are a power of two.
#[inline]
pub(crate) fn checked(space: Space, address: u64, bytes: u64) -> Result<(), FaultKind> {
    if address & (bytes - 1) == 0 { Ok(()) } else { Err(FaultKind::Misaligned { space, address, bytes }) }
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
        counter: usize,
        space: Space,
        bytes: u64,
        sign: Option<u32>,
        to: &[Option<Reg>],
        at: Address,
    ) -> Outcome<()> {
        let mut addresses = addresses(warp, at);
        // Bounds and alignment are those of the whole access: a vector is one.
        let total = bytes * to.len() as u64;
        let mut alike = Alike::default();
        for lane in lanes(active) {
            let (space, address) = resolve(space, addresses[lane]);
            // In local memory, one address is as many places as there are lanes.
            if space != Space::Local
                && let Some(other) = alike.find(addresses[lane], total, lane)
            {
                for &to in to.iter().flatten() {
                    let to = warp.register_mut(to);
                    to[lane] = to[other];
                }
                continue;
            }
            let fault = |e| (lane as u32, e);
            checked(space, address, total).map_err(fault)?;
            let mut found = [0; 4];
            match space {
                Space::Shared => {
                    self.shared.load(address, total, warp.who(lane as u32), &mut found).map_err(fault)?;
                }
                Space::Global | Space::Generic => {
                    let (allocation, offset) = self.memory.locate(address, total).map_err(fault)?;
                    if !allocation.load(offset, total, &mut found) {
                        return Err(fault(allocation.uninitialised(address, offset, total)));
                    }
                }
                Space::Local => {
                    let range = self.local_range(lane, address, total).map_err(fault)?;
                    if !warp.local_written[range.clone()].iter().all(|&w| w) {
                        let bytes = total;
                        return Err(fault(FaultKind::Uninitialised { space, address, bytes, nearest: None }));
                    }
                    found = packed(&warp.local[range]);
                }
                Space::Param => {
                    found = packed(&self.params[self.program.locate_param(address, total).map_err(fault)?]);
                }
            }
            for (i, to) in to.iter().enumerate() {
                let Some(to) = *to else { continue };
                let value = element(&found, i, bytes);
                warp.register_mut(to)[lane] = match sign {
                    Some(register) => {
                        let unused = 64 - 8 * bytes;
                        (((value << unused) as i64 >> unused) as u64) & (u64::MAX >> (64 - register))
                    }
                    None => value,
                };
            }
        }
        if !matches!(space, Space::Local | Space::Param) {
            let spaces = spaces(space, &mut addresses, active);
            let line = self.profile.at(counter);
            line.global_loads.count(&addresses, spaces.global, total);
            line.shared_loads.count(&addresses, spaces.shared, total);
        }
        Ok(())
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

    #[expect(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(crate) fn store(
        &mut self,
        warp: &mut Warp,
        active: u32,
        counter: usize,
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
            let mut given = [0; 4];
            for (i, &from) in from.iter().enumerate() {
                put_element(&mut given, i, bytes, warp.register(from)[lane]);
            }
            match space {
                Space::Shared => {
                    self.shared.store(address, total, &given, warp.who(lane as u32)).map_err(fault)?;
                }
                Space::Global | Space::Generic => {
                    let (allocation, offset) = self.memory.locate(address, total).map_err(fault)?;
                    if allocation.is_read_only() {
                        return Err(fault(FaultKind::ReadOnly { address }));
                    }
                    allocation.store(offset, total, &given);
                }
                Space::Local => {
                    let range = self.local_range(lane, address, total).map_err(fault)?;
                    for (i, byte) in warp.local[range.clone()].iter_mut().enumerate() {
                        *byte = given[i / 4].to_le_bytes()[i % 4];
                    }
                    warp.local_written[range].fill(true);
                }
                Space::Param => return Err(fault(FaultKind::ReadOnly { address })),
            }
        }
        if !matches!(space, Space::Local | Space::Param) {
            let spaces = spaces(space, &mut addresses, active);
            let line = self.profile.at(counter);
            line.global_stores.count(&addresses, spaces.global, total);
            line.shared_stores.count(&addresses, spaces.shared, total);
        }
        Ok(())
    }

    /// Lanes go one after another, lowest first.
    #[expect(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(crate) fn atomic(
        &mut self,
        warp: &mut Warp,
        active: u32,
        counter: usize,
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
                    let mut words = [0; 4];
                    if !allocation.load(offset, bytes, &mut words) {
                        return Err(fault(allocation.uninitialised(address, offset, bytes)));
                    }
                    let old = element(&words, 0, bytes);
                    let mut words = [0; 4];
                    put_element(&mut words, 0, bytes, change(old));
                    allocation.store(offset, bytes, &words);
                    old
                }
                _ => return Err(fault(FaultKind::Unsupported("an atomic on local or parameter memory"))),
            };
        }
        if let Some(to) = to {
            warp.set(to, &out, active);
        }
        let spaces = spaces(space, &mut addresses, active);
        let line = self.profile.at(counter);
        line.global_loads.count(&addresses, spaces.global, bytes);
        line.global_stores.count(&addresses, spaces.global, bytes);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(crate) fn async_copy(
        &mut self,
        warp: &mut Warp,
        active: u32,
        counter: usize,
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
            let mut data = [0; 16];
            if wanted > 0 {
                let (allocation, offset) = self.memory.locate(from[lane], wanted).map_err(fault)?;
                if let Some(at) = allocation.read(offset, &mut data[..wanted as usize]) {
                    return Err(fault(allocation.uninitialised(from[lane], at, wanted)));
                }
                reading |= 1 << lane;
            }
            self.shared.depart(to[lane], bytes, warp.who(lane as u32)).map_err(fault)?;
            let group = warp.committed[lane];
            warp.pending.push(Pending {
                lane: lane as u32,
                group,
                to: to[lane],
                bytes: bytes as usize,
                data,
            });
        }
        let line = self.profile.at(counter);
        line.global_loads.count(&from, reading, bytes);
        line.shared_stores.count(&to, active, bytes);
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
        let mut pending = std::mem::take(&mut warp.pending);
        let mut fault = None;
        pending.retain(|copy| {
            let committed = warp.committed[copy.lane as usize];
            let awaited = uncommitted || copy.group < committed.saturating_sub(left);
            if active >> copy.lane & 1 == 0 || !awaited {
                return true;
            }
            let landed = self.shared.arrive(copy.to, &copy.data[..copy.bytes], warp.who(copy.lane));
            fault = fault.take().or(landed.err().map(|kind| (copy.lane, kind)));
            false
        });
        warp.pending = pending;
        fault.map_or(Ok(()), Err)
    }
}

/// Lanes that load from one address in one instruction. To the checks two of them say what many would: that it is read,
/// and by several lanes; a third one's load brings nothing new.
struct Alike {
    /// An address, a lane that loads from it, and whether another one did.
    seen: [(u64, usize, bool); 16],
}

impl Default for Alike {
    fn default() -> Self {
        Self { seen: [(u64::MAX, 0, false); 16] }
    }
}

impl Alike {
    /// A lane that has loaded what this one is to load, once there were two.
    #[inline]
    fn find(&mut self, address: u64, bytes: u64, lane: usize) -> Option<usize> {
        let seen = &mut self.seen[(address / bytes % 16) as usize];
        if seen.0 != address {
            *seen = (address, lane, false);
            return None;
        }
        let again = seen.2;
        seen.2 = true;
        again.then_some(seen.1)
    }
}

/// Up to 16 bytes in words.
fn packed(bytes: &[u8]) -> [u32; 4] {
    let mut out = [0; 4];
    for (i, &byte) in bytes.iter().enumerate() {
        out[i / 4] |= u32::from(byte) << (i % 4 * 8);
    }
    out
}

/// The number of this place among those of a vector.
#[inline]
fn element(words: &[u32; 4], at: usize, bytes: u64) -> u64 {
    match bytes {
        4 => words[at].into(),
        8 => u64::from(words[2 * at]) | u64::from(words[2 * at + 1]) << 32,
        2 => u64::from(words[at / 2] >> (at % 2 * 16) & 0xffff),
        _ => u64::from(words[at / 4] >> (at % 4 * 8) & 0xff),
    }
}

/// Puts a number in its place among those of a vector, where zeros are.
#[inline]
fn put_element(words: &mut [u32; 4], at: usize, bytes: u64, value: u64) {
    match bytes {
        4 => words[at] = value as u32,
        8 => (words[2 * at], words[2 * at + 1]) = (value as u32, (value >> 32) as u32),
        2 => words[at / 2] |= (value as u32 & 0xffff) << (at % 2 * 16),
        _ => words[at / 4] |= (value as u32 & 0xff) << (at % 4 * 8),
    }
}

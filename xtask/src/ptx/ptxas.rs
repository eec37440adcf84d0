//! What the assembler makes of a module on each architecture.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::cannot;

/// An architecture, with what its multiprocessors have (CUDA's programming guide, "Technical specifications").
#[derive(Debug)]
pub(crate) struct Architecture {
    pub(crate) name: &'static str,
    /// Whether registers in memory are a fault: on those that are not measured, it is enough that the text assembles.
    judged: bool,
    warps: u32,
    blocks: u32,
    /// Bytes of shared memory.
    shared: u32,
}

/// Registers of a multiprocessor, and how many of them a warp takes at a time.
const REGISTERS: u32 = 65536;
const REGISTER_UNIT: u32 = 256;

/// Shared memory that a block takes besides its own, and how much of it at a time.
const SHARED_RESERVED: u32 = 1024;
const SHARED_UNIT: u32 = 128;

/// Threads of a warp.
const WARP: u32 = 32;

pub(crate) const ARCHITECTURES: [Architecture; 5] = [
    Architecture { name: "sm_80", judged: true, warps: 64, blocks: 32, shared: 164 << 10 },
    Architecture { name: "sm_89", judged: true, warps: 48, blocks: 24, shared: 100 << 10 },
    Architecture { name: "sm_90", judged: true, warps: 64, blocks: 32, shared: 228 << 10 },
    Architecture { name: "sm_100", judged: false, warps: 64, blocks: 32, shared: 228 << 10 },
    Architecture { name: "sm_120", judged: false, warps: 48, blocks: 24, shared: 100 << 10 },
];

/// One entry on one architecture.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) entry: String,
    pub(crate) architecture: &'static Architecture,
    registers: u32,
    /// Bytes of static shared memory.
    shared: u32,
    threads: u32,
    /// Bytes of local memory, for arrays that are not in registers, and for registers that there are too few of.
    pub(crate) stack: u32,
    pub(crate) spill_stores: u32,
    pub(crate) spill_loads: u32,
}

impl Row {
    /// Whether it is a fault that something which should be in registers is in memory.
    pub(crate) fn in_memory(&self) -> bool {
        self.architecture.judged && self.stack + self.spill_stores + self.spill_loads > 0
    }

    /// Warps that a multiprocessor holds at once.
    fn warps(&self) -> u32 {
        let architecture = self.architecture;
        let block = self.threads.div_ceil(WARP).max(1);
        let registers = (self.registers * WARP).next_multiple_of(REGISTER_UNIT).max(REGISTER_UNIT);
        let by_registers = REGISTERS / registers / block;
        let shared = (self.shared + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
        let blocks = by_registers.min(architecture.shared / shared).min(architecture.blocks);
        blocks.min(architecture.warps / block) * block
    }
}

/// Assembles a file, and returns what ptxas says of each entry.
pub(crate) fn assemble(
    ptxas: &Path,
    path: &Path,
    architecture: &'static Architecture,
) -> Result<Vec<Row>, String> {
    let text = fs::read_to_string(path).map_err(|error| cannot("read", path, error))?;
    let mut command = Command::new(ptxas);
    command.arg("--verbose").arg(format!("--gpu-name={}", architecture.name)).arg(path);
    command.arg("--output-file").arg(path.with_extension(format!("{}.cubin", architecture.name)));
    let output = command.output().map_err(|error| cannot("run", ptxas, error))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    if !output.status.success() {
        return Err(format!("ptxas does not assemble {file} for {}:\n{said}", architecture.name));
    }
    rows(&text, &said, architecture)
        .map_err(|error| format!("{file}, {}: {error}\n{said}", architecture.name))
}

/// The entries that ptxas speaks of, each with its threads from the module's text.
fn rows(text: &str, said: &str, architecture: &'static Architecture) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    // Everything about one entry follows the line that names it.
    let parts = said.split("Compiling entry function '").skip(1);
    for part in parts {
        let entry = part.split('\'').next().unwrap_or_default().to_owned();
        let number = |unit: &str| number_before(part, unit).ok_or(format!("ptxas says no {unit:?}"));
        rows.push(Row {
            architecture,
            registers: number(" registers")?,
            // Not said where there is none.
            shared: number_before(part, " bytes smem").unwrap_or(0),
            threads: threads(text, &entry).ok_or(format!("{entry} has no launch bounds"))?,
            stack: number(" bytes stack frame")?,
            spill_stores: number(" bytes spill stores")?,
            spill_loads: number(" bytes spill loads")?,
            entry,
        });
    }
    if rows.is_empty() || rows.len() != text.matches(".entry ").count() {
        return Err(format!("ptxas speaks of {} entries, and the text has others", rows.len()));
    }
    rows.sort_by(|a, b| a.entry.cmp(&b.entry));
    Ok(rows)
}

/// The number that stands before the first `unit`.
fn number_before(text: &str, unit: &str) -> Option<u32> {
    let before = &text[..text.find(unit)?];
    let digits = before.rfind(|letter: char| !letter.is_ascii_digit()).map_or(0, |at| at + 1);
    before[digits..].parse().ok()
}

/// The threads that an entry's block has at most.
fn threads(text: &str, entry: &str) -> Option<u32> {
    let header = text.split(&format!(".entry {entry}(")).nth(1)?.split('{').next()?;
    let bounds = header.split(".maxntid").nth(1)?.lines().next()?;
    bounds.split(',').map(|size| size.trim().parse::<u32>().ok()).product()
}

/// The rows as text, with how much of a multiprocessor's warps each entry fills.
pub(crate) fn table(rows: &[(&str, Row)]) -> String {
    let width = |of: &dyn Fn(&(&str, Row)) -> usize, least| rows.iter().map(of).max().unwrap_or(0).max(least);
    let (module, entry) = (width(&|row| row.0.len(), 6), width(&|row| row.1.entry.len(), 5));
    let mut table = format!(
        "{:module$}  {:entry$}  {:7}  registers  shared  spills  occupancy\n",
        "module", "entry", "arch"
    );
    for (name, row) in rows {
        let occupancy = 100.0 * f64::from(row.warps()) / f64::from(row.architecture.warps);
        // A String takes all that is written.
        let _ = writeln!(
            table,
            "{name:module$}  {:entry$}  {:7}  {:9}  {:6}  {:6}  {occupancy:7.0} %",
            row.entry,
            row.architecture.name,
            row.registers,
            row.shared,
            row.stack + row.spill_stores + row.spill_loads,
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = ".visible .entry a(\n.param .u64 a_param_0\n)\n.maxntid 256, 1, 1\n{\nret;\n}\n";
    const SAID: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_80'
ptxas info    : Function properties for a
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 48640 bytes smem, 392 bytes cmem[0]
";

    #[test]
    fn what_ptxas_says_is_understood() {
        let rows = rows(TEXT, SAID, &ARCHITECTURES[0]).unwrap();
        let row = &rows[0];
        assert_eq!((rows.len(), row.entry.as_str(), row.registers, row.threads), (1, "a", 40, 256));
        assert_eq!((row.shared, row.stack, row.spill_stores, row.spill_loads), (48640, 8, 4, 12));
        assert!(row.in_memory());
        // 164 KiB hold three such blocks of 8 warps.
        assert_eq!(row.warps(), 24);
        assert!(table(&[("m", rows.into_iter().next().unwrap())]).contains("38 %"));
    }

    #[test]
    fn what_is_not_judged_only_has_to_assemble() {
        assert!(!rows(TEXT, SAID, &ARCHITECTURES[4]).unwrap()[0].in_memory());
    }

    #[test]
    fn what_is_missing_is_an_error() {
        assert!(rows(TEXT, "", &ARCHITECTURES[0]).is_err());
        assert!(rows("", SAID, &ARCHITECTURES[0]).is_err());
        assert!(rows(&TEXT.replace(".maxntid", ".other"), SAID, &ARCHITECTURES[0]).is_err());
        assert!(rows(TEXT, &SAID.replace("registers", "rooms"), &ARCHITECTURES[0]).is_err());
    }
}

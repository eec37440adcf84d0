//! Variables and parameters: where each lies.

use std::collections::HashMap;

use crate::ast::{Entry, Storage, Variable};
use crate::error::{Located, Refusal};
use crate::parse::Result;
use crate::program::{OWN_BASE, PARAM_SLOT, Param};

/// Variables by name, with the address each has in its own space.
#[derive(Debug, Clone, Default)]
pub(crate) struct Symbols {
    at: HashMap<String, (Storage, u64)>,
    /// Shared variables of the module, laid out anew in each entry.
    shared: Vec<Variable>,
}

pub(super) struct Layout {
    pub params: Vec<Param>,
    pub param_bytes: u64,
    pub shared_bytes: u64,
    pub local_bytes: u64,
}

impl Symbols {
    pub(super) fn get(&self, name: &str) -> Option<(Storage, u64)> {
        self.at.get(name).copied()
    }

    /// A variable of the module, at an address that it has already unless it is shared.
    pub(crate) fn add(&mut self, variable: &Variable, address: u64) -> Result<()> {
        if variable.storage == Storage::Shared {
            self.shared.push(variable.clone());
            return Ok(());
        }
        self.insert(variable, address)
    }

    fn insert(&mut self, variable: &Variable, address: u64) -> Result<()> {
        match self.at.insert(variable.name.clone(), (variable.storage, address)) {
            None => Ok(()),
            Some(_) => Err(Located::syntax(variable.line, format!("`{}` is declared twice", variable.name))),
        }
    }

    /// Lays out parameters, local and shared variables of an entry. Names in nested scopes are those of the entry.
    pub(super) fn add_entry(&mut self, entry: &Entry) -> Result<Layout> {
        let mut params = Vec::new();
        let mut param_bytes = 0u64;
        for (i, param) in entry.params.iter().enumerate() {
            let offset = param_bytes.next_multiple_of(param.align);
            // PTX allows all the parameters of a kernel 32,764 bytes.
            if offset.saturating_add(param.bytes) > PARAM_SLOT / 2 {
                let what = "parameters of more than 32 KiB".into();
                return Err(Located::new(param.line, Refusal::Unsupported(what)));
            }
            self.insert(param, (i as u64 + 1) * PARAM_SLOT)?;
            params.push(Param { name: param.name.clone(), offset, bytes: param.bytes });
            param_bytes = offset + param.bytes;
        }
        let mut local_bytes = 0u64;
        for variable in entry.variables.iter().filter(|v| v.storage == Storage::Local) {
            let offset = local_bytes.next_multiple_of(variable.align);
            self.insert(variable, OWN_BASE + offset)?;
            local_bytes = offset + variable.bytes;
        }
        let shared: Vec<Variable> = std::mem::take(&mut self.shared)
            .into_iter()
            .chain(entry.variables.iter().filter(|v| v.storage == Storage::Shared).cloned())
            .collect();
        let mut shared_bytes = 0u64;
        for variable in shared.iter().filter(|v| !v.dynamic) {
            if !variable.initial.iter().all(|&b| b == 0) {
                let what = "an initial value of a shared variable".into();
                return Err(Located::new(variable.line, Refusal::Unsupported(what)));
            }
            let offset = shared_bytes.next_multiple_of(variable.align);
            self.insert(variable, OWN_BASE + offset)?;
            shared_bytes = offset + variable.bytes;
        }
        // All dynamic arrays are one, after the static ones.
        let dynamic = || shared.iter().filter(|v| v.dynamic);
        let align = dynamic().map(|v| v.align).max().unwrap_or(1);
        shared_bytes = shared_bytes.next_multiple_of(align);
        for variable in dynamic() {
            self.insert(variable, OWN_BASE + shared_bytes)?;
        }
        Ok(Layout { params, param_bytes, shared_bytes, local_bytes })
    }
}

//! The storages that a pass reads, each locked once.
//!
//! From outside of candle a lock is not had twice: `Tensor::storage_and_layout` waits for a writer that waits for the first. So
//! storages are known by their addresses, which are asked for while nothing is locked, and tensors that are parts of one storage
//! share its lock. A storage stays where it is as long as one of its tensors is there.

use candle_core::{Storage, StorageRef, Tensor};

use crate::room::Room;

/// Where a storage lies. Tensors that are parts of one have one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(usize);

impl Address {
    /// The address of what a tensor lies in. Its lock is held for a moment: the caller may hold none.
    pub(super) fn of(tensor: &Tensor) -> Self {
        let (storage, _) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Address::of_storage(storage),
            Storage::Cuda(storage) => Address::of_storage(storage),
            Storage::Metal(storage) => Address::of_storage(storage),
        }
    }

    /// The same of a storage that is locked.
    pub(super) fn of_storage<S>(storage: &S) -> Self {
        Address(std::ptr::from_ref(storage).addr())
    }
}

/// The storages of a pass that are locked here.
pub(super) struct Locks<'a>(Vec<(Address, StorageRef<'a>)>);

impl<'a> Locks<'a> {
    /// Locks the storages of tensors, but for those that candle has locked already.
    pub(super) fn new(tensors: impl IntoIterator<Item = (Address, &'a Tensor)>, locked: &[Address]) -> Self {
        let mut tensors: Vec<_> =
            tensors.into_iter().filter(|(address, _)| !locked.contains(address)).collect();
        // In one order, so that no two passes wait for each other by way of their writers.
        tensors.sort_by_key(|(address, _)| *address);
        tensors.dedup_by_key(|(address, _)| *address);
        Locks(tensors.into_iter().map(|(address, tensor)| (address, tensor.storage_and_layout().0)).collect())
    }

    /// A storage, if it is locked here and in the room.
    pub(super) fn find<R: Room>(&self, address: Address) -> Option<&R::Storage> {
        let (_, storage) = self.0.iter().find(|(known, _)| *known == address)?;
        R::of(storage)
    }
}

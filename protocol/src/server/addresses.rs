//! How many connections come from one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::gate::network_of;

/// Connections by address. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    limit: usize,
    /// Never zero: an address without a connection is not in it.
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection of an address, until dropped.
#[derive(Debug)]
pub(super) struct FromAddress {
    addresses: Addresses,
    network: IpAddr,
}

impl Addresses {
    /// At most `limit` connections of each address.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, open: Arc::default() }
    }

    /// One more connection of this address, unless there are too many of it.
    pub(super) fn enter(&self, address: IpAddr) -> Option<FromAddress> {
        let network = network_of(address);
        let mut open = self.open();
        let n_open = open.entry(network).or_default();
        if *n_open >= self.limit {
            return None;
        }
        *n_open += 1;
        Some(FromAddress { addresses: self.clone(), network })
    }

    /// A panic while it was held leaves it intact: it only counts.
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FromAddress {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.addresses.open().entry(self.network) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn each_address_has_its_own_limit_and_leaves_no_trace() {
        let addresses = Addresses::new(2);
        let enter = |text: &str| addresses.enter(text.parse().unwrap());
        let first = enter("10.0.0.1").unwrap();
        let second = enter("::ffff:10.0.0.1").unwrap();
        assert!(enter("10.0.0.1").is_none());
        let neighbours = [enter("10.0.0.2").unwrap(), enter("2001:db8::1").unwrap()];
        let same_network = enter("2001:db8::ffff:2").unwrap();
        assert!(enter("2001:db8::3").is_none());
        let other_network = enter("2001:db8:0:1::1").unwrap();
        drop(first);
        drop(enter("10.0.0.1").unwrap());
        drop((second, neighbours, same_network, other_network));
        assert!(addresses.open().is_empty());
    }
}

//! A map by name that is asked for one name thousands of times a second and walked seldom.

#![expect(clippy::disallowed_types, reason = "the hash map is asked, never walked")]

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// FNV-1a: short, and the same in every process, so that nothing depends on chance. Names come from
/// the fleet itself; crafted ones could only make it slow.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Found by hash, in the same few instructions for ten names or ten thousand; walked in the order
/// of the names.
#[derive(Debug, Clone)]
pub(crate) struct ByName<T> {
    places: HashMap<String, usize, BuildHasherDefault<Fnv>>,
    order: BTreeMap<String, usize>,
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self {
            places: HashMap::default(),
            order: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> ByName<T> {
    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        self.slots[*self.places.get(name)?].as_ref()
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        self.slots[*self.places.get(name)?].as_mut()
    }

    /// Replaces what had the name.
    pub(crate) fn insert(&mut self, name: &str, value: T) {
        if let Some(held) = self.get_mut(name) {
            *held = value;
            return;
        }
        let place = self.free.pop().unwrap_or(self.slots.len());
        if place == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[place] = Some(value);
        self.places.insert(name.to_owned(), place);
        self.order.insert(name.to_owned(), place);
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<T> {
        let place = self.places.remove(name)?;
        self.order.remove(name);
        self.free.push(place);
        self.slots[place].take()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// In the order of the names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.order
            .iter()
            .filter_map(|(name, place)| Some((name.as_str(), self.slots[*place].as_ref()?)))
    }

    /// In order.
    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.order.keys().map(String::as_str)
    }

    /// In the order of the names.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }

    /// Changes each, in the order of the names.
    pub(crate) fn for_each_mut(&mut self, mut change: impl FnMut(&str, &mut T)) {
        for (name, place) in &self.order {
            if let Some(value) = self.slots[*place].as_mut() {
                change(name, value);
            }
        }
    }

    /// In the order in which they came: for changes that do not depend on it.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(steps in vec((any::<bool>(), 0..8u8), 0..64)) {
            let (mut map, mut model) = (ByName::default(), BTreeMap::new());
            for (n, (insert, name)) in steps.into_iter().enumerate() {
                let name = format!("worker-{name}");
                if insert {
                    map.insert(&name, n);
                    model.insert(name.clone(), n);
                } else {
                    prop_assert_eq!(map.remove(&name), model.remove(&name));
                }
                prop_assert_eq!(map.get(&name), model.get(&name));
                prop_assert_eq!(map.is_empty(), model.is_empty());
                prop_assert!(map.iter().eq(model.iter().map(|(k, v)| (k.as_str(), v))));
                prop_assert!(map.names().eq(model.keys()));
            }
        }
    }
}

//! Classes that a set's labels name.

use std::collections::BTreeMap;

use crate::split::UNLABELLED;

/// Numbers by label, in the order of appearance until they are sorted.
pub(crate) struct Classes<L> {
    numbers: BTreeMap<L, u32>,
}

impl<L: Ord> Classes<L> {
    /// With these names in their order, if any are known.
    pub(crate) fn new(known: impl IntoIterator<Item = L>) -> Self {
        Self {
            numbers: known.into_iter().zip(0..).collect(),
        }
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, label: &Q) -> Option<u32>
    where
        L: std::borrow::Borrow<Q>,
    {
        self.numbers.get(label).copied()
    }

    /// The number of a label, which is a class from now on.
    pub(crate) fn learn(&mut self, label: L) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(label).or_insert(next)
    }

    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Numbers the classes in the order of their labels, and changes `given` numbers accordingly.
    pub(crate) fn sort<'a>(&mut self, given: impl Iterator<Item = &'a mut u32>) {
        let mut sorted = vec![0; self.numbers.len()];
        for (class, appeared) in (0u32..).zip(self.numbers.values_mut()) {
            sorted[*appeared as usize] = class;
            *appeared = class;
        }
        for label in given.filter(|label| **label != UNLABELLED) {
            *label = sorted[*label as usize];
        }
    }

    /// By number.
    pub(crate) fn into_names(self) -> Vec<L> {
        let mut names: Vec<(L, u32)> = self.numbers.into_iter().collect();
        names.sort_unstable_by_key(|(_, number)| *number);
        names.into_iter().map(|(label, _)| label).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_numbered_in_the_order_of_their_labels() {
        let mut classes = Classes::new([]);
        let mut labels: Vec<u32> = ["b", "c", "b", "a"]
            .into_iter()
            .map(|l| classes.learn(l))
            .collect();
        assert_eq!(labels, [0, 1, 0, 2]);
        labels.push(UNLABELLED);
        classes.sort(labels.iter_mut());
        assert_eq!(labels, [1, 2, 1, 0, UNLABELLED]);
        assert_eq!(
            (classes.get("c"), classes.get("d"), classes.len()),
            (Some(2), None, 3)
        );
        assert_eq!(classes.into_names(), ["a", "b", "c"]);
        assert_eq!(Classes::new(["z", "x"]).into_names(), ["z", "x"]);
    }
}

//! The replicas of the current round, counted as they change: what a request costs must not depend
//! on how many there are.

use crate::ids::Millis;
use crate::names::ByName;
use crate::round::{Spent, Work};

/// A replica that takes part in the current round.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) incarnation: u64,
    /// It waits for a merge to get its first state.
    pub(super) joining: bool,
    pub(super) contributed: Option<Work>,
    /// When it contributed to this round.
    pub(super) contributed_at: Option<Millis>,
    /// The newest round that its contribution entered.
    pub(super) merged: Option<u64>,
    /// Samples of its part in the newest merge.
    pub(super) brought: u64,
    /// Where its seconds went in the newest merge that it brought something to.
    pub(super) spent: Spent,
    /// Samples per second of its steps, newest round first in weight.
    pub(super) service: f64,
    /// Its last request for work got none.
    pub(super) idle: bool,
}

/// A contribution on its way into the merge.
pub(super) struct Taken {
    pub(super) worker: String,
    pub(super) incarnation: u64,
    pub(super) work: Work,
}

/// All replicas by name. They change only through [`Holders::update`], which keeps the counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Holders {
    all: ByName<Holder>,
    /// Those that hold the state.
    keepers: usize,
    /// Those of them that have not contributed.
    open: usize,
    /// Those that contributed and wait.
    waiting: usize,
}

impl Holders {
    pub(super) fn get(&self, worker: &str) -> Option<&Holder> {
        self.all.get(worker)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Holder)> {
        self.all.iter()
    }

    pub(super) fn names(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.all.names()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those that hold the state.
    pub(super) fn keepers(&self) -> impl Iterator<Item = (&str, &Holder)> {
        self.all.iter().filter(|(_, h)| !h.joining)
    }

    /// How many hold the state.
    pub(super) fn count_keepers(&self) -> usize {
        self.keepers
    }

    /// Whether all that hold the state contributed.
    pub(super) fn all_contributed(&self) -> bool {
        self.open == 0
    }

    /// Whether some replica contributed, and waits for the others.
    pub(super) fn any_waits(&self) -> bool {
        self.waiting > 0
    }

    pub(super) fn insert(&mut self, worker: &str, holder: Holder) {
        self.remove(worker);
        self.count(&holder, true);
        self.all.insert(worker, holder);
    }

    pub(super) fn remove(&mut self, worker: &str) {
        if let Some(holder) = self.all.remove(worker) {
            self.count(&holder, false);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Changes one replica. `None`: it is not here.
    pub(super) fn update<T>(&mut self, worker: &str, change: impl FnOnce(&mut Holder) -> T) -> Option<T> {
        let holder = self.all.get_mut(worker)?;
        let before = [!holder.joining, holder.is_open(), holder.contributed.is_some()];
        let value = change(holder);
        let after = [!holder.joining, holder.is_open(), holder.contributed.is_some()];
        let counts = [&mut self.keepers, &mut self.open, &mut self.waiting];
        for (count, (before, after)) in counts.into_iter().zip(before.into_iter().zip(after)) {
            *count = *count + usize::from(after) - usize::from(before);
        }
        Some(value)
    }

    /// Takes all contributions out, in the order of the names. Whoever brought one holds the state
    /// of the next round.
    pub(super) fn close_round(&mut self, round: u64) -> Vec<Taken> {
        let mut taken = Vec::with_capacity(self.waiting);
        let mut keepers = 0;
        self.all.for_each_mut(|worker, holder| {
            holder.brought = 0;
            if let Some(work) = holder.contributed.take() {
                holder.brought = work.sums.samples;
                if work.sums.samples > 0 {
                    holder.spent = work.sums.spent;
                }
                holder.contributed_at = None;
                holder.joining = false;
                holder.merged = Some(round);
                taken.push(Taken {
                    worker: worker.to_owned(),
                    incarnation: holder.incarnation,
                    work,
                });
            }
            keepers += usize::from(!holder.joining);
        });
        (self.keepers, self.open, self.waiting) = (keepers, keepers, 0);
        taken
    }

    fn count(&mut self, holder: &Holder, comes: bool) {
        let here = [!holder.joining, holder.is_open(), holder.contributed.is_some()];
        let counts = [&mut self.keepers, &mut self.open, &mut self.waiting];
        for (count, here) in counts.into_iter().zip(here) {
            let n = usize::from(here);
            *count = if comes { *count + n } else { *count - n };
        }
    }
}

impl Holder {
    /// It holds the state and has not contributed to the open round.
    pub(super) fn is_open(&self) -> bool {
        !self.joining && self.contributed.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(joining: bool) -> Holder {
        Holder {
            incarnation: 1,
            joining,
            contributed: None,
            contributed_at: None,
            merged: None,
            brought: 0,
            spent: Spent::default(),
            service: 0.0,
            idle: false,
        }
    }

    #[test]
    fn the_counts_follow_every_change() {
        let mut holders = Holders::default();
        holders.insert("a", holder(false));
        holders.insert("b", holder(true));
        let counts = |h: &Holders| (h.count_keepers(), h.all_contributed(), h.any_waits());
        assert_eq!(counts(&holders), (1, false, false));
        holders.update("b", |h| h.contributed = Some(Work::default()));
        assert_eq!(counts(&holders), (1, false, true));
        holders.update("a", |h| h.contributed = Some(Work::default()));
        assert_eq!(counts(&holders), (1, true, true));
        let taken = holders.close_round(3);
        assert!(taken.iter().map(|t| t.worker.as_str()).eq(["a", "b"]));
        assert_eq!(counts(&holders), (2, false, false));
        holders.insert("a", holder(true));
        holders.remove("b");
        assert_eq!(counts(&holders), (0, true, false));
        assert_eq!(holders.update("b", |_| ()), None);
        holders.clear();
        assert!(holders.is_empty());
    }
}

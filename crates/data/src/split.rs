//! A set, and how it is cut into parts. All choices but that of labels ignore the run's seed.

use crate::config::Sizes;
use crate::dataset::Shape;
use crate::order::permute;
use crate::rng::{key, mix};
use crate::store::Store;

/// Keys the cut between training and validation; a constant, so that all runs share their parts.
const SPLIT_KEY: u64 = 0x5eed_0001;
/// Domain of the choice of labels.
const LABELLED: u64 = 3;

/// In the place of a label that a sample does not have. Only training samples lack theirs.
pub(crate) const UNLABELLED: u32 = u32::MAX;
/// In the place of a label of a row that is only there because samples have equally many.
pub(crate) const NO_TARGET: u32 = u32::MAX - 1;

/// A set as its source has it.
pub(crate) struct Set {
    pub(crate) shape: Shape,
    pub(crate) class_names: Vec<String>,
    pub(crate) store: Store,
    /// All with labels.
    pub(crate) pool: Samples,
    pub(crate) test: Samples,
    /// Further training samples, without labels.
    pub(crate) unlabelled: Samples,
    /// By sample of the pool: what it was cut from, if samples belong together.
    pub(crate) files: Vec<u32>,
}

/// Samples of a part: rows of the set's store, and labels, equally many of each sample, some of which may be [`UNLABELLED`] or
/// [`NO_TARGET`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    pub(crate) rows: Vec<u32>,
    pub(crate) labels: Vec<u32>,
    /// By sample, the bytes of text that its targets stand for; empty where nobody knows, or asks.
    pub(crate) bytes: Vec<u32>,
}

impl Samples {
    /// Number of samples. The loaders keep it within `u32`.
    pub(crate) fn len(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Labels of each sample; 1 where there is none to tell.
    pub(crate) fn targets_each(&self) -> usize {
        self.labels.len().checked_div(self.len() as usize).unwrap_or(1)
    }

    /// The labels of one sample.
    pub(crate) fn labels_of(&self, sample: u32) -> &[u32] {
        let targets = self.targets_each();
        &self.labels[sample as usize * targets..][..targets]
    }

    /// The rows of one sample that have a target, and its label or [`UNLABELLED`].
    pub(crate) fn targets(&self, sample: u32) -> impl Iterator<Item = (usize, u32)> + '_ {
        let labels = self.labels_of(sample).iter().copied().enumerate();
        labels.filter(|(_, label)| *label != NO_TARGET)
    }

    pub(crate) fn push(&mut self, row: u32, label: u32) {
        self.push_all(row, [label]);
    }

    /// A sample with several labels.
    pub(crate) fn push_all(&mut self, row: u32, labels: impl IntoIterator<Item = u32>) {
        self.rows.push(row);
        self.labels.extend(labels);
    }

    /// How many have labels. A sample has all of its or none.
    pub(crate) fn labelled(&self) -> u32 {
        let labelled = |sample: &u32| !self.labels_of(*sample).contains(&UNLABELLED);
        (0..self.len()).filter(labelled).count() as u32
    }

    /// Puts further samples behind these.
    pub(crate) fn append(&mut self, more: Self) {
        self.rows.extend(more.rows);
        self.labels.extend(more.labels);
    }

    /// The samples at these places, in this order.
    pub(crate) fn gather(&self, places: impl Iterator<Item = u32> + Clone) -> Self {
        let bytes = places.clone().filter_map(|place| self.bytes.get(place as usize));
        Self {
            bytes: bytes.copied().collect(),
            rows: places.clone().map(|place| self.rows[place as usize]).collect(),
            labels: places.flat_map(|place| self.labels_of(place)).copied().collect(),
        }
    }
}

/// A fixed permutation of `0..len`.
pub(crate) fn shuffled(len: u32) -> impl Iterator<Item = u32> + Clone {
    (0..len).map(move |index| permute(len.into(), SPLIT_KEY, index.into()) as u32)
}

/// Training, validation and test part. Training comes from the front of a fixed permutation and validation from its
/// end, so that changing the size of one leaves the members of the other.
///
/// Where `files` says which samples of the pool were cut from the same file, whole files are permuted. Of a file that
/// begins before the validation part, training gets nothing, and so up to a file less than `sizes` says.
pub(crate) fn split(pool: &Samples, test: &Samples, sizes: Sizes, files: &[u32]) -> [Samples; 3] {
    let order = by_file(pool.len(), files);
    let (front, validation) = order.split_at((pool.len() - sizes.validation) as usize);
    let shared = validation.first().and_then(|&row| files.get(row as usize));
    let of_another = |row: &u32| shared.is_none() || files.get(*row as usize) != shared;
    let train = front
        .iter()
        .copied()
        .take(sizes.train as usize)
        .filter(of_another);
    [
        pool.gather(train),
        pool.gather(validation.iter().copied()),
        test.gather(0..sizes.test),
    ]
}

/// All rows of the pool, in the order of a fixed permutation of them or of their files.
fn by_file(len: u32, files: &[u32]) -> Vec<u32> {
    if files.is_empty() {
        return shuffled(len).collect();
    }
    let mut starts = vec![0u32];
    for file in files.chunk_by(|a, b| a == b) {
        starts.push(starts[starts.len() - 1] + file.len() as u32);
    }
    let order = shuffled(starts.len() as u32 - 1).map(|file| file as usize);
    order.flat_map(|file| starts[file]..starts[file + 1]).collect()
}

/// Which `count` samples keep their label: the classes take turns, each giving its sample with the lowest hash of
/// seed and id. Sorted. A larger count keeps all that a smaller one chose. Samples without a label are never chosen.
pub(crate) fn labelled(labels: &[u32], classes: usize, count: u32, seed: u64) -> Vec<u32> {
    let seed = key(&[LABELLED, seed]);
    let mut queues: Vec<Vec<u32>> = vec![Vec::new(); classes];
    for (id, &label) in (0u32..).zip(labels).filter(|(_, label)| **label != UNLABELLED) {
        queues[label as usize].push(id);
    }
    for queue in &mut queues {
        // Taken from the end, hence descending.
        queue.sort_unstable_by_key(|&id| std::cmp::Reverse(mix(seed ^ u64::from(id))));
    }
    queues.sort_by_key(|queue| queue.last().map(|&id| mix(seed ^ u64::from(id))));
    let mut chosen = Vec::with_capacity(count as usize);
    while chosen.len() < count as usize {
        let before = chosen.len();
        let wanted = count as usize - before;
        chosen.extend(queues.iter_mut().filter_map(Vec::pop).take(wanted));
        assert!(chosen.len() > before, "more labels wanted than samples");
    }
    chosen.sort_unstable();
    chosen
}

/// The id with this number, from 0, among those that a sorted list lacks.
pub(crate) fn missing(ids: &[u32], number: u32) -> u32 {
    // Below ids[i] the list lacks ids[i] - i: so many of the list come before the id.
    let (mut low, mut high) = (0, ids.len());
    while low < high {
        let middle = (low + high) / 2;
        if ids[middle] - middle as u32 <= number {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    number + low as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_balanced_nested_and_seeded() {
        let labels: Vec<u32> = (0..1_000).map(|i| i % 7).collect();
        let choice = labelled(&labels, 7, 100, 1);
        assert_eq!(choice.len(), 100);
        assert!(choice.windows(2).all(|pair| pair[0] < pair[1]));
        let mut counts = [0; 7];
        for &id in &choice {
            counts[labels[id as usize] as usize] += 1;
        }
        assert!(counts.iter().all(|n| (14..=15).contains(n)), "{counts:?}");
        let more = labelled(&labels, 7, 200, 1);
        assert!(choice.iter().all(|id| more.contains(id)));
        assert_ne!(labelled(&labels, 7, 100, 2), choice);
    }

    #[test]
    fn samples_without_a_label_are_never_chosen() {
        let labels = [0, UNLABELLED, 1, UNLABELLED, 0];
        assert_eq!(labelled(&labels, 2, 3, 1), [0, 2, 4]);
        assert_eq!(labelled(&labels, 2, 2, 1).len(), 2);
    }

    #[test]
    fn appended_samples_follow() {
        let mut samples = Samples::default();
        samples.push(3, 7);
        samples.append(Samples {
            rows: vec![5],
            labels: vec![UNLABELLED],
            bytes: Vec::new(),
        });
        assert_eq!((samples.len(), samples.labelled()), (2, 1));
        let gathered = samples.gather([1, 0].into_iter());
        assert_eq!(
            (gathered.rows, gathered.labels),
            (vec![5, 3], vec![UNLABELLED, 7])
        );
    }

    #[test]
    fn what_a_list_lacks_is_counted_in_order() {
        for ids in [&[][..], &[0], &[3], &[0, 1, 2], &[1, 4, 5, 9], &[19]] {
            let expected: Vec<u32> = (0..20).filter(|id| !ids.contains(id)).collect();
            let found = (0..expected.len() as u32).map(|number| missing(ids, number));
            assert_eq!(found.collect::<Vec<_>>(), expected, "{ids:?}");
        }
    }

    #[test]
    fn a_scarce_class_gives_all_it_has() {
        let labels = [0, 0, 0, 0, 1, 2, 2, 2];
        let choice = labelled(&labels, 3, 7, 1);
        assert!(choice.contains(&4));
        assert_eq!(labelled(&labels, 3, 8, 1), (0..8).collect::<Vec<_>>());
        assert_eq!(labelled(&labels, 3, 2, 1).len(), 2);
    }
}

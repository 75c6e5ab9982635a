//! Which mistakes a student shares with its teacher, and which change from seed to seed.
//!
//! A student and its teacher make some of the same mistakes whatever happens: the label says which
//! confusions are likely. For a label y with `n` samples let `s_c` and `t_c` be how many of them
//! student and teacher call c. If their answers depended on the label alone, they would meet in
//! `s_c t_c / n` samples on average (the mean over all ways to pair the two sets of answers), and so
//! in
//!
//! ```text
//! expected(y) = sum over c != y of s_c t_c / n
//! ```
//!
//! shared mistakes. The excess is `(shared - expected) / errors`, where `errors = sum s_c`: the share
//! of the student's mistakes that the teacher makes as well, beyond chance. It lies between -1 and 1,
//! both excluded; 0 is chance. Mistakes that the label alone explains, as of a class that neither can
//! name, count as chance.
//!
//! Some samples are hard for every model, so that an excess above 0 does not show inheritance yet.
//! The same student alone, held against the same teacher, shows how much of it there is without
//! teaching: what is inherited is the difference between the two.

use std::collections::BTreeMap;
use std::iter::Sum;

use super::{Logits, MetricsError, top_class};

/// Mistakes of a student, and those that a teacher makes as well.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SharedErrors {
    /// Samples that the student puts wrong.
    pub errors: u64,
    /// Those of them where the teacher names the same wrong class.
    pub shared: u64,
    /// As many would be shared if answers depended on the label alone.
    pub expected: f64,
}

impl SharedErrors {
    /// `(shared - expected) / errors`; none without errors.
    pub fn excess(&self) -> Option<f64> {
        (self.errors > 0).then(|| (self.shared as f64 - self.expected) / self.errors as f64)
    }
}

impl Sum for SharedErrors {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            errors: sum.errors + part.errors,
            shared: sum.shared + part.shared,
            expected: sum.expected + part.expected,
        })
    }
}

impl Logits<'_> {
    /// By label, the mistakes of `self`, a student, that a teacher shares; their sum is that of all samples.
    pub fn shared_errors(
        &self,
        teacher: &Logits<'_>,
        labels: &[u32],
    ) -> Result<Vec<SharedErrors>, MetricsError> {
        self.check(labels)?;
        self.match_up(teacher)?;
        let mut shared = vec![0; self.classes];
        // How often each label is called which class, by student and by teacher. Of thousands of classes most pairs do not occur.
        let mut calls = vec![BTreeMap::<usize, (u64, u64)>::new(); self.classes];
        for ((student, teacher), &label) in self.rows().zip(teacher.rows()).zip(labels) {
            let label = label as usize;
            let (student, teacher) = (top_class(student), top_class(teacher));
            shared[label] += u64::from(student == teacher && student != label);
            calls[label].entry(student).or_default().0 += 1;
            calls[label].entry(teacher).or_default().1 += 1;
        }
        let of = |(label, calls): (usize, &BTreeMap<usize, (u64, u64)>)| {
            let n: u64 = calls.values().map(|(students, _)| students).sum();
            let wrong = || {
                calls
                    .iter()
                    .filter(|(class, _)| **class != label)
                    .map(|(_, calls)| calls)
            };
            let meetings = wrong().map(|&(students, teachers)| students as f64 * teachers as f64);
            SharedErrors {
                errors: wrong().map(|(students, _)| students).sum(),
                shared: shared[label],
                expected: meetings.sum::<f64>() / n.max(1) as f64,
            }
        };
        Ok(calls.iter().enumerate().map(of).collect())
    }
}

/// The mean share of samples whose top class differs, over all pairs of models (one for each seed); none of fewer than
/// two.
pub fn churn(models: &[Vec<usize>]) -> Option<f64> {
    let pairs = models
        .iter()
        .enumerate()
        .flat_map(|(i, a)| models[i + 1..].iter().map(move |b| (a, b)));
    let (mut sum, mut count) = (0.0, 0_u32);
    for (a, b) in pairs {
        let differ = a.iter().zip(b).filter(|(a, b)| a != b).count();
        sum += differ as f64 / a.len().max(1) as f64;
        count += 1;
    }
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits whose top classes are these.
    fn naming(tops: &[usize], classes: usize) -> Vec<f32> {
        let row = |top: usize| (0..classes).map(move |c| f32::from(u8::from(c == top)));
        tops.iter().flat_map(|&t| row(t)).collect()
    }

    fn shared(student: &[usize], teacher: &[usize], labels: &[u32]) -> Vec<SharedErrors> {
        let (student, teacher) = (naming(student, 3), naming(teacher, 3));
        let teacher = Logits::new(&teacher, 3).unwrap();
        let student = Logits::new(&student, 3).unwrap();
        student.shared_errors(&teacher, labels).unwrap()
    }

    #[test]
    fn shared_errors_match_numbers_worked_out_by_hand() {
        // Label 0: the student calls 1, 1, 2, 0; the teacher 1, 0, 1, 2. They share the first mistake.
        // Expected: (s_1 t_1 + s_2 t_2) / 4 = (2 * 2 + 1 * 1) / 4. Label 1: a mistake on each side, not the same sample.
        let by_label = shared(&[1, 1, 2, 0, 0, 1], &[1, 0, 1, 2, 1, 0], &[0, 0, 0, 0, 1, 1]);
        let label = |errors, shared, expected| SharedErrors {
            errors,
            shared,
            expected,
        };
        assert_eq!(by_label, [label(3, 1, 1.25), label(1, 0, 0.5), label(0, 0, 0.0)]);
        let all: SharedErrors = by_label.into_iter().sum();
        assert_eq!(all, label(4, 1, 1.75));
        assert_eq!(all.excess(), Some((1.0 - 1.75) / 4.0));
    }

    #[test]
    fn a_copy_of_the_teacher_inherits_all_but_what_chance_gives() {
        // One mistake in ten samples: chance gives a tenth of it.
        let tops = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(shared(&tops, &tops, &[0; 10])[0].excess(), Some(0.9));
        // The same mistake in all samples follows from the label alone.
        assert_eq!(shared(&[1; 10], &[1; 10], &[0; 10])[0].excess(), Some(0.0));
        // No mistake, no share.
        assert_eq!(shared(&[0; 10], &[1; 10], &[0; 10])[0].excess(), None);
    }

    #[test]
    fn independent_answers_have_no_excess_on_average() {
        // All 24 ways to pair four answers with four: the mean of what is shared is what is expected.
        let (student, teacher) = ([1, 1, 2, 0], [1, 2, 0, 0]);
        let mut sum = 0.0;
        let mut count = 0.0;
        for code in 0..256_usize {
            let order = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
            if (0..4).any(|i| !order.contains(&i)) {
                continue;
            }
            let found = shared(&student, &order.map(|i| teacher[i]), &[0; 4])[0];
            assert_eq!(found.expected, (2.0 + 1.0) / 4.0);
            sum += found.shared as f64;
            count += 1.0;
        }
        assert_eq!((count, sum / count), (24.0, 0.75));
    }

    #[test]
    fn churn_is_the_mean_over_pairs() {
        // Pairs differ in 1, 2 and 3 of 4 samples.
        let models = [vec![0, 0, 0, 0], vec![1, 0, 0, 0], vec![0, 1, 1, 0]];
        assert_eq!(churn(&models), Some((0.25 + 0.5 + 0.75) / 3.0));
        assert_eq!(churn(&models[..1]), None);
        assert_eq!(churn(&[models[0].clone(), models[0].clone()]), Some(0.0));
    }
}

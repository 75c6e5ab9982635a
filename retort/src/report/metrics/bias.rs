//! A bias for classes that a model never saw: what it takes to be asked for them as often as they come.

use super::{Logits, MetricsError, top_class};

impl Logits<'_> {
    /// What to add to the logits of `classes` so that most of the samples are put right: of the best values the one that
    /// is nearest to 0, or the middle of them where they lie between two samples.
    pub fn best_bias(&self, labels: &[u32], classes: &[u32]) -> Result<f64, MetricsError> {
        self.check(labels)?;
        let raised = |class: usize| classes.contains(&(class as u32));
        // From this bias on the best of `classes` is named instead of the best of the others.
        let mut turns: Vec<(f64, i64)> = Vec::new();
        for (row, &label) in self.rows().zip(labels) {
            let best = |among: bool| {
                (0..row.len())
                    .filter(|c| raised(*c) == among)
                    .reduce(|a, b| if row[b] > row[a] { b } else { a })
            };
            let (Some(one), Some(other)) = (best(true), best(false)) else {
                continue;
            };
            let right = |class: usize| i64::from(class as u32 == label);
            turns.push((
                f64::from(row[other]) - f64::from(row[one]),
                right(one) - right(other),
            ));
        }
        turns.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Between turn i - 1 and turn i; how many more samples are right than with the least bias.
        let mut won = 0;
        let mut best: Option<(i64, f64)> = None;
        for i in 0..=turns.len() {
            let low = i.checked_sub(1).map(|i| turns[i].0);
            let high = turns.get(i).map(|turn| turn.0);
            let value = match (low, high) {
                (Some(low), Some(high)) if low < 0.0 && high > 0.0 => 0.0,
                (Some(low), Some(high)) => low.midpoint(high),
                (Some(low), None) => (low + 1.0).max(0.0),
                (None, Some(high)) => (high - 1.0).min(0.0),
                (None, None) => 0.0,
            };
            if low != high
                && best.is_none_or(|(most, at)| won > most || won == most && value.abs() < at.abs())
            {
                best = Some((won, value));
            }
            won += turns.get(i).map_or(0, |turn| turn.1);
        }
        Ok(best.map_or(0.0, |(_, value)| value))
    }

    /// How often a label among `classes` is put right, and how often any label is, with a bias on the logits of `classes`;
    /// the former is none without such labels.
    pub fn accuracy_with_bias(
        &self,
        labels: &[u32],
        classes: &[u32],
        bias: f64,
    ) -> Result<(Option<f64>, f64), MetricsError> {
        self.check(labels)?;
        let (mut raised, mut all, mut among) = (0_u64, 0_u64, 0_u64);
        for (row, label) in self.rows().zip(labels) {
            let mut row = row.to_vec();
            for &class in classes {
                row[class as usize] += bias as f32;
            }
            let right = u64::from(top_class(&row) as u32 == *label);
            all += right;
            if classes.contains(label) {
                among += 1;
                raised += right;
            }
        }
        let share = (among > 0).then(|| raised as f64 / among as f64);
        Ok((share, all as f64 / self.samples() as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: usize = 3;

    fn logits(values: &[f32]) -> Logits<'_> {
        Logits::new(values, CLASSES).unwrap()
    }

    #[test]
    fn the_best_bias_lies_between_the_samples_that_it_tells_apart() {
        // Class 2 is named from 1, 2, 3 and 5 on; the labels ask for it in the first three.
        let values = [1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 3.0, 0.0, 0.0, 0.0, 5.0, 0.0];
        let some = logits(&values);
        let labels = [2, 2, 2, 1];
        let bias = some.best_bias(&labels, &[2]).unwrap();
        assert_eq!(bias, 4.0);
        assert_eq!(
            some.accuracy_with_bias(&labels, &[2], 0.0).unwrap(),
            (Some(0.0), 0.25)
        );
        assert_eq!(
            some.accuracy_with_bias(&labels, &[2], bias).unwrap(),
            (Some(1.0), 1.0)
        );
    }

    #[test]
    fn nothing_is_added_where_nothing_is_gained() {
        let values = [1.0, 0.0, -4.0, 0.0, 1.0, -4.0, 0.0, 0.0, 4.0];
        let some = logits(&values);
        assert_eq!(some.best_bias(&[0, 1, 2], &[2]).unwrap(), 0.0);
        assert_eq!(some.best_bias(&[0, 1, 2], &[]).unwrap(), 0.0);
        // Always, and never.
        assert_eq!(some.best_bias(&[2, 2, 2], &[2]).unwrap(), 6.0);
        assert_eq!(some.best_bias(&[0, 0, 0], &[2]).unwrap(), -5.0);
        assert_eq!(some.accuracy_with_bias(&[0, 1, 1], &[2], 0.0).unwrap().0, None);
    }
}

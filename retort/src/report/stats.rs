//! The little statistics a report needs: means over seeds, and what their spread allows to say.

/// Arithmetic mean; none of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation of the sample (n - 1); none of fewer than two values.
pub fn sample_sd(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The least value that so large a share (0 to 1) of all values does not exceed; none of nothing.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// Two-sided 95 % interval of the mean of paired differences by Student's t; none of fewer than
/// two, since one seed shows no spread.
pub fn interval_95(differences: &[f64]) -> Option<[f64; 2]> {
    let (mean, sd) = (mean(differences)?, sample_sd(differences)?);
    let n = differences.len();
    let half = t_975(n - 1) * sd / (n as f64).sqrt();
    Some([mean - half, mean + half])
}

/// The 0.975 quantile of Student's t for 1 to 30 degrees of freedom.
const T_975: [f64; 30] = [
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
    2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555,
    2.0518, 2.0484, 2.0452, 2.0423,
];

/// The 0.975 quantile for `df >= 1`. Beyond the table, the first terms of the expansion around the
/// normal quantile (Abramowitz and Stegun 26.7.5) are exact to four digits.
fn t_975(df: usize) -> f64 {
    if let Some(t) = df.checked_sub(1).and_then(|i| T_975.get(i)) {
        return *t;
    }
    let (z, n) = (1.959_964_f64, df as f64);
    z + (z.powi(3) + z) / (4.0 * n) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_sd_match_numbers_worked_out_by_hand() {
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(sample_sd(&[1.0, 2.0, 6.0]), Some(7.0_f64.sqrt()));
        assert_eq!(
            (mean(&[]), sample_sd(&[1.0]), interval_95(&[1.0])),
            (None, None, None)
        );
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(
            [0.0, 0.5, 0.95, 1.0].map(|q| quantile(&values, q)),
            [Some(1.0), Some(10.0), Some(19.0), Some(20.0)]
        );
        assert_eq!((quantile(&[], 0.5), quantile(&[3.0], 0.95)), (None, Some(3.0)));
    }

    #[test]
    fn the_interval_of_three_differences_uses_two_degrees_of_freedom() {
        let [low, high] = interval_95(&[1.0, 2.0, 6.0]).unwrap();
        let half = 4.3027 * (7.0_f64 / 3.0).sqrt();
        assert!((low - (3.0 - half)).abs() < 1e-12 && (high - (3.0 + half)).abs() < 1e-12);
    }

    #[test]
    fn equal_differences_leave_no_doubt() {
        assert_eq!(interval_95(&[0.5; 4]), Some([0.5, 0.5]));
    }

    #[test]
    fn quantiles_beyond_the_table_join_it_and_approach_the_normal_one() {
        for (df, t) in [
            (31, 2.0395),
            (40, 2.0211),
            (60, 2.0003),
            (120, 1.9799),
            (1_000_000, 1.9600),
        ] {
            assert!((t_975(df) - t).abs() < 1e-4, "{df}: {}", t_975(df));
        }
    }
}

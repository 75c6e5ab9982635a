use super::*;

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-9, "{a} is not {b}");
}

/// Logits whose softmax is exactly these probabilities.
fn logits(probabilities: &[f64]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() as f32).collect()
}

#[test]
fn accuracy_and_nll_match_numbers_worked_out_by_hand() {
    // Rows 1 and 2 are right, row 3 says 0 where 1 is true.
    let values = [0.0, 0.0, 0.0, 2.0, 1.0, 0.0];
    let e = Logits::new(&values, 2).unwrap().evaluate(&[0, 1, 1]).unwrap();
    close(e.accuracy, 2.0 / 3.0);
    // -ln(1/2); ln(1 + e^-2); ln(1 + e).
    close(e.nll, (LN_2 + 0.1269280110429725 + 1.3132616875182228) / 3.0);
    // Three targets of two bytes each.
    close(e.bits_per_byte(3, 6), e.nll / (2.0 * LN_2));
    close(e.bits_per_byte(3, 3).exp2(), e.perplexity());
    assert_eq!(
        e.per_class[0],
        ClassScore {
            support: 1,
            share: Some(1.0)
        }
    );
    assert_eq!(
        e.per_class[1],
        ClassScore {
            support: 2,
            share: Some(0.5)
        }
    );
}

#[test]
fn calibration_error_matches_numbers_worked_out_by_hand() {
    // Confidence 0.75 twice, one right: |0.5 - 0.75|; confidence 0.99 once, right: 0.01.
    let values = [
        logits(&[0.75, 0.25]),
        logits(&[0.25, 0.75]),
        logits(&[0.99, 0.01]),
    ]
    .concat();
    let e = Logits::new(&values, 2).unwrap().evaluate(&[0, 0, 0]).unwrap();
    assert!((e.ece - (2.0 * 0.25 + 0.01) / 3.0).abs() < 1e-6, "{}", e.ece);
    assert_eq!(e.bins.len(), BINS);
    // 0.75 lies in (11/15, 12/15], 0.99 in the last bin.
    let filled: Vec<(usize, u64)> = e
        .bins
        .iter()
        .enumerate()
        .map(|(i, b)| (i, b.samples))
        .filter(|b| b.1 > 0)
        .collect();
    assert_eq!(filled, [(11, 2), (14, 1)]);
    close(e.bins[11].accuracy, 0.5);
}

#[test]
fn bins_are_closed_above() {
    assert_eq!([0.0, 1.0 / 15.0, 0.0667, 1.0].map(bin_of), [0, 0, 1, 14]);
}

#[test]
fn agreement_and_kl_match_numbers_worked_out_by_hand() {
    let teacher = [logits(&[0.5, 0.5]), logits(&[0.9, 0.1])].concat();
    let student = [logits(&[0.25, 0.75]), logits(&[0.9, 0.1])].concat();
    let (teacher, student) = (
        Logits::new(&teacher, 2).unwrap(),
        Logits::new(&student, 2).unwrap(),
    );
    let c = student.compare(&teacher, &[0, 1]).unwrap();
    // 0.5 ln 2 + 0.5 ln(2/3) for the first row, 0 for the second.
    assert!((c.kl - 0.14384103622589042 / 2.0).abs() < 1e-7, "{}", c.kl);
    close(c.agreement, 0.5);
    assert_eq!(
        c.per_class.iter().map(|s| s.share).collect::<Vec<_>>(),
        [Some(0.0), Some(1.0)]
    );
}

#[test]
fn kl_at_a_temperature_matches_numbers_worked_out_by_hand() {
    // At T = 2 the odds 9 : 1 become 3 : 1, and 1 : 1 stays: KL = 3/4 ln(3/2) + 1/4 ln(1/2).
    let (teacher, student) = (logits(&[0.9, 0.1]), logits(&[0.5, 0.5]));
    let (teacher, student) = (
        Logits::new(&teacher, 2).unwrap(),
        Logits::new(&student, 2).unwrap(),
    );
    let expected = 0.75 * 1.5_f64.ln() - 0.25 * LN_2;
    let kl = student.kl(&teacher, 2.0).unwrap();
    assert!((kl - expected).abs() < 1e-7, "{kl}");
    assert_eq!(
        student.kl(&teacher, 1.0),
        student.compare(&teacher, &[0]).map(|c| c.kl)
    );
    assert_eq!(teacher.kl(&teacher, 4.0), Ok(0.0));
    // Logits that differ by 2e4 stay finite.
    let (far, other) = ([1e4, -1e4], [-1e4, 1e4]);
    let (far, other) = (Logits::new(&far, 2).unwrap(), Logits::new(&other, 2).unwrap());
    close(far.kl(&other, 4.0).unwrap(), 5e3);
}

#[test]
fn a_model_agrees_with_itself_at_no_divergence() {
    let values = [3.0, -1.0, 0.5, 1e4, -1e4, 0.0];
    let logits = Logits::new(&values, 3).unwrap();
    let c = logits.compare(&logits, &[2, 0]).unwrap();
    assert_eq!((c.kl, c.agreement), (0.0, 1.0));
    assert_eq!(
        c.per_class[1],
        ClassScore {
            support: 0,
            share: None
        }
    );
}

#[test]
fn extreme_logits_stay_finite() {
    let values = [1e4, -1e4, f32::MAX, f32::MIN];
    let e = Logits::new(&values, 2).unwrap().evaluate(&[1, 0]).unwrap();
    close(e.nll, 1e4);
    assert!(e.ece.is_finite());
}

#[test]
fn the_first_of_equal_logits_is_the_top_class() {
    assert_eq!(top_class(&[1.0, 2.0, 2.0]), 1);
    assert_eq!(top_class(&[0.0, 0.0]), 0);
}

#[test]
fn what_does_not_fit_is_a_named_error() {
    let values = [0.0, 1.0, f32::NAN, 0.0];
    assert_eq!(
        Logits::new(&values, 3).unwrap_err(),
        MetricsError::Shape {
            values: 4,
            classes: 3
        }
    );
    assert_eq!(
        Logits::new(&[], 3).unwrap_err(),
        MetricsError::Shape {
            values: 0,
            classes: 3
        }
    );
    assert_eq!(
        Logits::new(&values, 2).unwrap_err(),
        MetricsError::NotFinite { sample: 1, class: 0 }
    );
    let logits = Logits::new(&values[..2], 2).unwrap();
    assert_eq!(
        logits.evaluate(&[]).unwrap_err(),
        MetricsError::Labels {
            labels: 0,
            samples: 1
        }
    );
    assert_eq!(
        logits.evaluate(&[2]).unwrap_err(),
        MetricsError::Label {
            label: 2,
            sample: 0,
            classes: 2
        }
    );
    let wide = [0.0; 3];
    let other = Logits::new(&wide, 3).unwrap();
    assert!(matches!(
        logits.compare(&other, &[0]),
        Err(MetricsError::Mismatch { .. })
    ));
    assert!(matches!(
        logits.shared_errors(&other, &[0]),
        Err(MetricsError::Mismatch { .. })
    ));
}

#[test]
fn pooled_bins_weigh_seeds_by_samples() {
    let mut seeds = vec![empty_bins(), empty_bins()];
    seeds[0][14] = Bin {
        samples: 3,
        confidence: 0.95,
        accuracy: 1.0,
        ..seeds[0][14]
    };
    seeds[1][14] = Bin {
        samples: 1,
        confidence: 0.99,
        accuracy: 0.0,
        ..seeds[1][14]
    };
    let pooled = pool(&seeds);
    assert_eq!(pooled[14].samples, 4);
    close(pooled[14].confidence, 0.96);
    close(pooled[14].accuracy, 0.75);
    assert_eq!(pooled[0].samples, 0);
}

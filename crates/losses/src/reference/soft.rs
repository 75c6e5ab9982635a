//! Soft losses of one row each.

use super::{TopK, log_softmax, logsumexp};

/// Log-probabilities of teacher and student.
pub(crate) type Row = (Vec<f64>, Vec<f64>);

pub(crate) fn rows(logits: &[f64], teacher: &[f64], classes: usize, temperature: f64) -> Vec<Row> {
    let student = log_softmax(logits, classes, temperature);
    let rows = teacher.chunks(classes).zip(student.chunks(classes));
    rows.map(|(p, q)| (p.to_vec(), q.to_vec())).collect()
}

/// With the classes that the teacher left out as one.
pub(crate) fn buckets(logits: &[f64], teacher: &TopK, classes: usize, temperature: f64) -> Vec<Row> {
    let student = log_softmax(logits, classes, temperature);
    let rows = student.chunks(classes).enumerate();
    rows.map(|(row, student)| {
        let (ids, mut p): (Vec<usize>, Vec<f64>) = teacher.row(row).unzip();
        let mut q: Vec<f64> = ids.iter().map(|&id| student[id]).collect();
        if teacher.kept < classes {
            let others = (0..classes).filter(|j| !ids.contains(j));
            p.push(teacher.log_tail[row]);
            q.push(logsumexp(others.map(|j| student[j])));
        }
        (p, q)
    })
    .collect()
}

pub(crate) fn mean(rows: &[Row], loss: impl Fn(&[f64], &[f64]) -> f64) -> f64 {
    rows.iter().map(|(p, q)| loss(p, q)).sum::<f64>() / rows.len() as f64
}

pub(crate) fn forward(teacher: &[f64], student: &[f64]) -> f64 {
    let rows = teacher.iter().zip(student);
    rows.map(|(log_p, log_q)| {
        let p = log_p.exp();
        if p == 0.0 { 0.0 } else { p * (log_p - log_q) }
    })
    .sum()
}

/// A teacher's probability of 0 counts as e^-10000.
pub(crate) fn reverse(teacher: &[f64], student: &[f64]) -> f64 {
    let teacher: Vec<f64> = teacher.iter().map(|p| p.max(-1e4)).collect();
    forward(student, &teacher)
}

pub(crate) fn jsd(teacher: &[f64], student: &[f64], beta: f64) -> f64 {
    let pairs = teacher.iter().zip(student);
    let mixture: Vec<f64> = pairs
        .map(|(p, q)| logsumexp([p.max(-1e4) + beta.ln(), q + (1.0 - beta).ln()].into_iter()))
        .collect();
    beta * forward(teacher, &mixture) + (1.0 - beta) * forward(student, &mixture)
}

/// Of unsoftened logits.
pub(crate) fn mse(logits: &[f64], teacher: &[f64], classes: usize, temperature: f64) -> f64 {
    let centred = |row: &[f64]| -> Vec<f64> {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        row.iter().map(|v| v - mean).collect()
    };
    let rows = logits.chunks(classes).zip(teacher.chunks(classes));
    let sum: f64 = rows
        .map(|(z, p)| {
            let p: Vec<f64> = p.iter().map(|p| p.max(-1e4) * temperature).collect();
            let pairs = centred(z).into_iter().zip(centred(&p));
            pairs.map(|(z, v)| (z - v).powi(2)).sum::<f64>()
        })
        .sum();
    sum / logits.len() as f64
}

/// Target and other classes' parts.
pub(crate) fn dkd(teacher: &[f64], student: &[f64], label: usize) -> (f64, f64) {
    let split = |row: &[f64]| {
        let others: Vec<f64> = row
            .iter()
            .enumerate()
            .filter(|&(j, _)| j != label)
            .map(|(_, v)| *v)
            .collect();
        let rest = logsumexp(others.iter().copied());
        (
            vec![row[label], rest],
            others.iter().map(|v| v - rest).collect::<Vec<_>>(),
        )
    };
    let ((p, p_others), (q, q_others)) = (split(teacher), split(student));
    (forward(&p, &q), forward(&p_others, &q_others))
}

//! The sentence at the top of a report: what the teacher gave, as far as the seeds can tell.
//!
//! The difference is paired by seed, student minus the same student alone, so that what both share
//! (initial weights, labels, order) drops out. It is called help or harm only if the 95 % interval
//! leaves out zero; so is a student said to pass its teacher.

use super::{Finding, Student, Teacher, Verdict, baseline_of, stats};

/// Paired by seed: student minus baseline.
struct Gain {
    difference: f64,
    interval: Option<[f64; 2]>,
    seeds: usize,
}

impl Verdict {
    /// Judges every student; the numbers are those of the first that has a baseline, the finding is common to all.
    pub fn new(teachers: &[Teacher], students: &[Student], baselines: &[Student]) -> Self {
        if students.is_empty() {
            return Self::without_numbers(
                "this job has no students: it trained teachers only, and nothing was distilled",
            );
        }
        if teachers.is_empty() {
            return Self::without_numbers(&format!("this job has no teachers: {}", accuracies(students)));
        }
        let pairs: Vec<(&Student, &Student, Gain)> =
            students.iter().filter_map(|s| pair(s, baselines)).collect();
        let Some((_, _, first)) = pairs.first() else {
            let text = "what the teacher gave is unknown, for the student was not trained alone: repeat with --baseline";
            return Self::without_numbers(&format!("{}; {text}", accuracies(students)));
        };
        let sentences: Vec<String> = pairs
            .iter()
            .map(|(student, alone, gain)| {
                format!("{}; {}", gain.sentence(student, alone), keeps(student, teachers))
            })
            .collect();
        let findings: Vec<Finding> = pairs.iter().map(|(_, _, gain)| gain.finding()).collect();
        Self {
            text: sentences.join(". "),
            difference: Some(first.difference),
            interval: first.interval,
            finding: common(&findings),
        }
    }

    fn without_numbers(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            difference: None,
            interval: None,
            finding: Finding::Open,
        }
    }
}

/// What all say; open where they disagree.
fn common(findings: &[Finding]) -> Finding {
    match findings {
        [first, rest @ ..] if rest.iter().all(|f| f == first) => *first,
        _ => Finding::Open,
    }
}

fn pair<'a>(student: &'a Student, baselines: &'a [Student]) -> Option<(&'a Student, &'a Student, Gain)> {
    let alone = baseline_of(baselines, &student.name)?;
    let pairs = student
        .test_accuracy
        .values
        .iter()
        .zip(&alone.test_accuracy.values);
    let differences: Vec<f64> = pairs.map(|(s, a)| s - a).collect();
    let gain = Gain {
        difference: stats::mean(&differences)?,
        interval: stats::interval_95(&differences),
        seeds: differences.len(),
    };
    Some((student, alone, gain))
}

impl Gain {
    /// By the interval, not the mean.
    fn finding(&self) -> Finding {
        match self.interval {
            Some([low, _]) if low > 0.0 => Finding::Helped,
            Some([_, high]) if high < 0.0 => Finding::Harmed,
            _ => Finding::Open,
        }
    }

    fn sentence(&self, student: &Student, alone: &Student) -> String {
        let name = &student.name;
        let (with, without) = (
            percent(student.test_accuracy.mean),
            percent(alone.test_accuracy.mean),
        );
        let difference = points(self.difference);
        let Some([low, high]) = self.interval else {
            return format!(
                "{name} reaches {with} where it reaches {without} alone, a difference of {difference} points, \
                 but one seed shows no spread: repeat with --seeds 3 or more"
            );
        };
        let spread = format!(
            "95 % interval {} to {}, {} seeds",
            points(low),
            points(high),
            self.seeds
        );
        let finding = match self.finding() {
            Finding::Helped => "the teacher helped",
            Finding::Harmed => "the teacher did harm",
            Finding::Open => {
                return format!(
                    "no difference could be shown: {name} reaches {with} with its teacher and {without} alone, \
                     {difference} points ({spread})"
                );
            }
        };
        format!(
            "{finding}: {name} reaches {with} where it reaches {without} alone, a difference of {difference} points ({spread})"
        )
    }
}

/// How the student stands against the most accurate teacher; a student that teaches is none of its own. It passes the
/// teacher only if the interval of the differences lies above zero.
fn keeps(student: &Student, teachers: &[Teacher]) -> String {
    let teachers: Vec<&Teacher> = teachers.iter().filter(|t| t.name != student.name).collect();
    let best = teachers
        .iter()
        .max_by(|a, b| a.test_accuracy.mean.total_cmp(&b.test_accuracy.mean));
    let Some(teacher) = best.filter(|t| t.test_accuracy.mean > 0.0 && t.parameters > 0) else {
        return "its teacher can say nothing".to_owned();
    };
    let owner = if teachers.len() == 1 {
        "the teacher's".to_owned()
    } else {
        format!("the best teacher's ({})", teacher.name)
    };
    let size = 100.0 * student.parameters as f64 / teacher.parameters as f64;
    let (own, taught) = (student.test_accuracy.mean, teacher.test_accuracy.mean);
    let ahead = student.test_accuracy.minus(&teacher.test_accuracy);
    if stats::interval_95(&ahead.values).is_some_and(|[low, _]| low > 0.0) {
        return format!(
            "it passes {owner} own {} at {} % of its parameters",
            percent(taught),
            short(size)
        );
    }
    // Of each seed: what a seed makes easy or hard for both drops out.
    let (mine, theirs) = (&student.test_accuracy.values, &teacher.test_accuracy.values);
    let shares: Vec<f64> = mine
        .iter()
        .zip(theirs)
        .map(|(own, taught)| own / taught)
        .collect();
    let spread = match stats::sample_sd(&shares) {
        Some(sd) if shares.len() == mine.len() => format!(" ± {:.1}", 100.0 * sd),
        _ => String::new(),
    };
    format!(
        "it keeps {:.1} %{spread} of {owner} accuracy at {} % of its parameters",
        100.0 * stats::mean(&shares).unwrap_or(own / taught),
        short(size)
    )
}

fn accuracies(students: &[Student]) -> String {
    let each: Vec<String> = students
        .iter()
        .map(|s| format!("{} reaches {}", s.name, percent(s.test_accuracy.mean)))
        .collect();
    each.join(", ")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A signed difference in points of accuracy; no "-0.0".
fn points(difference: f64) -> String {
    format!("{:+.1}", (1000.0 * difference).round() / 10.0 + 0.0)
}

/// Two digits for small numbers, whole ones otherwise.
fn short(number: f64) -> String {
    if number < 10.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{student, teacher};
    use super::*;

    fn verdict(with: &[f64], alone: &[f64]) -> Verdict {
        let teachers = [teacher("wide", 100_000, &vec![0.95; with.len()])];
        Verdict::new(
            &teachers,
            &[student("small", 4_200, with)],
            &[student("small@alone", 4_200, alone)],
        )
    }

    #[test]
    fn an_interval_above_zero_is_help() {
        let v = verdict(&[0.84, 0.85, 0.83], &[0.79, 0.79, 0.79]);
        assert_eq!(
            v.text,
            "the teacher helped: small reaches 84.0 % where it reaches 79.0 % alone, a difference of +5.0 points \
             (95 % interval +2.5 to +7.5, 3 seeds); it keeps 88.4 % ± 1.1 of the teacher's accuracy at 4.2 % of its parameters"
        );
        assert!((v.difference.unwrap() - 0.05).abs() < 1e-12);
        assert!(v.interval.unwrap()[0] > 0.0);
    }

    #[test]
    fn an_interval_below_zero_is_harm() {
        let v = verdict(&[0.70, 0.71, 0.70], &[0.79, 0.79, 0.79]);
        assert!(v.text.starts_with("the teacher did harm: "), "{}", v.text);
    }

    #[test]
    fn an_interval_around_zero_shows_no_difference_however_large_the_mean() {
        let v = verdict(&[0.95, 0.75, 0.80], &[0.79, 0.79, 0.79]);
        assert!(v.text.starts_with("no difference could be shown: "), "{}", v.text);
        let same = verdict(&[0.8, 0.8], &[0.8, 0.8]);
        assert!(
            same.text
                .contains("+0.0 points (95 % interval +0.0 to +0.0, 2 seeds)"),
            "{}",
            same.text
        );
        assert!(same.text.starts_with("no difference"), "{}", same.text);
    }

    #[test]
    fn one_seed_has_a_difference_but_no_interval() {
        let v = verdict(&[0.84], &[0.79]);
        assert!(
            v.text
                .contains("one seed shows no spread: repeat with --seeds 3 or more"),
            "{}",
            v.text
        );
        assert_eq!(v.interval, None);
        assert!(v.difference.is_some());
    }

    #[test]
    fn what_was_not_trained_is_named() {
        let (t, s) = ([teacher("wide", 9, &[0.9])], [student("small", 3, &[0.8])]);
        let without_baseline = Verdict::new(&t, &s, &[]);
        assert!(
            without_baseline.text.contains("--baseline"),
            "{}",
            without_baseline.text
        );
        assert!(Verdict::new(&t, &[], &[]).text.contains("no students"));
        assert!(
            Verdict::new(&[], &s, &[])
                .text
                .contains("no teachers: small reaches 80.0 %")
        );
        assert_eq!(
            (without_baseline.difference, without_baseline.interval),
            (None, None)
        );
    }

    #[test]
    fn a_student_may_pass_its_teacher_and_the_best_of_several_is_named() {
        let teachers = [
            teacher("weak", 10, &[0.5, 0.5, 0.5]),
            teacher("strong", 40, &[0.70, 0.71, 0.69]),
        ];
        let v = Verdict::new(
            &teachers,
            &[student("small", 8, &[0.80, 0.80, 0.81])],
            &[student("small@alone", 8, &[0.6, 0.6, 0.6])],
        );
        assert!(
            v.text
                .ends_with("it passes the best teacher's (strong) own 70.0 % at 20 % of its parameters"),
            "{}",
            v.text
        );
    }

    #[test]
    fn a_student_passes_its_teacher_by_the_interval_not_by_the_mean() {
        let against = |student_by_seed: &[f64], teacher_by_seed: &[f64]| {
            let alone = vec![0.6; student_by_seed.len()];
            let v = Verdict::new(
                &[teacher("wide", 100, teacher_by_seed)],
                &[student("small", 10, student_by_seed)],
                &[student("small@alone", 10, &alone)],
            );
            v.text
        };
        for (student, teacher, end) in [
            (
                &[0.85, 0.86][..],
                &[0.80, 0.90][..],
                "it keeps 100.9 % ± 7.6 of the teacher's accuracy at 10 % of its parameters",
            ),
            (
                &[0.95],
                &[0.90],
                "it keeps 105.6 % of the teacher's accuracy at 10 % of its parameters",
            ),
            (
                &[0.85, 0.95],
                &[0.80, 0.90],
                "it passes the teacher's own 85.0 % at 10 % of its parameters",
            ),
        ] {
            let text = against(student, teacher);
            assert!(text.ends_with(end), "{text}");
        }
    }

    #[test]
    fn a_student_that_teaches_its_peer_is_held_against_the_peer() {
        let teachers = [teacher("a", 10, &[0.9, 0.9]), teacher("b", 20, &[0.8, 0.8])];
        let v = Verdict::new(
            &teachers,
            &[student("a", 10, &[0.9, 0.9])],
            &[student("a@alone", 10, &[0.6, 0.6])],
        );
        assert!(
            v.text
                .ends_with("it passes the teacher's own 80.0 % at 50 % of its parameters"),
            "{}",
            v.text
        );
    }

    #[test]
    fn every_student_is_judged() {
        let teachers = [teacher("wide", 10, &[0.9, 0.9])];
        let students = [student("a", 1, &[0.5, 0.5]), student("b", 1, &[0.8, 0.8])];
        let alone = [
            student("b@alone", 1, &[0.7, 0.7]),
            student("a@alone", 1, &[0.6, 0.6]),
        ];
        let v = Verdict::new(&teachers, &students, &alone);
        assert!(
            v.text.contains("did harm: a ") && v.text.contains("helped: b "),
            "{}",
            v.text
        );
        assert!(v.difference.unwrap() < 0.0);
    }

    #[test]
    fn the_finding_is_open_unless_all_students_agree() {
        let of = |a: f64, b: f64| {
            let students = [student("a", 1, &[a, a]), student("b", 1, &[b, b])];
            let alone = [
                student("a@alone", 1, &[0.6, 0.6]),
                student("b@alone", 1, &[0.6, 0.6]),
            ];
            Verdict::new(&[teacher("wide", 10, &[0.9, 0.9])], &students, &alone).finding
        };
        assert_eq!(of(0.7, 0.8), Finding::Helped);
        assert_eq!(of(0.5, 0.4), Finding::Harmed);
        assert_eq!(of(0.7, 0.5), Finding::Open, "one was helped, one was harmed");
        assert_eq!(of(0.7, 0.6), Finding::Open, "of one nothing is known");
    }
}

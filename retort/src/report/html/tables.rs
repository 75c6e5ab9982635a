//! The tables of the page, and how numbers are written in them.

use super::super::svg::{Unit, escape, in_points};
use super::super::{BadRows, ClassRow, ExitRow, Metric, Report, Retuned, Student};

/// Every model on the test data.
pub(super) fn results(report: &Report) -> String {
    let teachers = report.teachers.iter().map(|t| {
        let cells = [
            "teacher".to_owned(),
            percent(&t.test_accuracy),
            decimal(&t.test_nll),
            decimal(&t.ece),
            NONE.to_owned(),
            NONE.to_owned(),
            NONE.to_owned(),
            count(t.parameters),
        ];
        row(&t.name, cells.each_ref().map(String::as_str))
    });
    let students = report.students.iter().map(|s| {
        let alone = report.baseline_of(&s.name).map(|alone| model(alone, "alone"));
        let exits: String = s.exits.iter().map(|exit| exit_row(s, exit)).collect();
        format!("{}{exits}{}", model(s, "student"), alone.unwrap_or_default())
    });
    let heads = [
        "model",
        "role",
        "accuracy",
        "NLL",
        "ECE",
        "agreement",
        "KL",
        "KL at T",
        "parameters",
    ];
    let rows = teachers.chain(students).collect::<String>();
    let note = format!(
        "Mean ± standard deviation over seeds, on test data, at temperature 1. NLL: negative log-likelihood of the \
         labels, in nats. ECE: expected calibration error. Agreement: how often model and teacher name the same class. \
         KL: divergence from the teacher, in nats; at T: of what both say at the temperature of teaching{}. Lower is better \
         for NLL, ECE and KL.",
        temperatures(report)
    );
    format!(
        "{}<p class=\"note\">{note}</p>\n{}{}",
        table("Results on test data", &heads, &rows),
        perplexities(report),
        left_out(report)
    )
}

/// Of language models; nothing for others.
fn perplexities(report: &Report) -> String {
    let teachers = report.teachers.iter();
    let teachers = teachers.map(|t| (&t.name, &t.test_perplexity, &t.test_bits_per_byte));
    let students = report.students.iter().chain(&report.baselines);
    let students = students.map(|s| (&s.name, &s.test_perplexity, &s.test_bits_per_byte));
    let rows = teachers.chain(students).filter_map(|(name, perplexity, bits)| {
        let bits = bits.as_ref().map_or(NONE.to_owned(), decimal);
        Some(row(name, [&decimal(perplexity.as_ref()?), &bits]))
    });
    let rows: String = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let bytes = match report.dataset.text_bytes_per_target {
        Some(bytes) => format!(
            "what a byte of the text costs, of which a token stands for {bytes:.2}; only it can be compared with other tokens of \
             the same text"
        ),
        None => "not known, since the tokens are not all of the text".to_owned(),
    };
    let note = format!(
        "Perplexity: of a token of the test data, e to the power of the NLL. Accuracy is how often the likeliest token comes \
         next. Bits a byte: {bytes}."
    );
    let heads = ["model", "perplexity", "bits a byte"];
    format!(
        "{}<p class=\"note\">{note}</p>\n",
        table("Perplexity", &heads, &rows)
    )
}

/// The smaller model that ends at an exit.
fn exit_row(student: &Student, exit: &ExitRow) -> String {
    let cells = [
        "exit".to_owned(),
        percent(&exit.test_accuracy),
        NONE.to_owned(),
        NONE.to_owned(),
        NONE.to_owned(),
        NONE.to_owned(),
        NONE.to_owned(),
        count(exit.parameters),
    ];
    let name = format!("{} up to {}", student.name, exit.at);
    row(&name, cells.each_ref().map(String::as_str))
}

/// The classes that training went without; nothing where there are none.
fn left_out(report: &Report) -> String {
    let models = report.students.iter().chain(&report.baselines);
    let rows = models.filter_map(|s| {
        let out = s.left_out.as_ref()?;
        let cells = [
            optional(out.accuracy.as_ref().map(percent)),
            optional(out.corrected.as_ref().map(percent)),
            percent(&out.test_accuracy),
            decimal(&out.bias),
        ];
        Some(row(&s.name, cells.each_ref().map(String::as_str)))
    });
    let rows: String = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = ["model", "accuracy", "with a bias", "all classes, with it", "bias"];
    let note = "Test samples of the classes that training went without. The bias is added to the logits of these classes; it \
                is the one with which most of the validation data is put right.";
    format!(
        "{}<p class=\"note\">{note}</p>\n",
        table("Classes left out of training", &heads, &rows)
    )
}

/// ` (T = 4)`, or each student's where they differ; nothing without teachers.
fn temperatures(report: &Report) -> String {
    let of = |s: &Student| Some((s.name.clone(), s.temperature?));
    let all: Vec<(String, f64)> = report.students.iter().filter_map(of).collect();
    match all.first() {
        None => String::new(),
        Some((_, first)) if all.iter().all(|(_, t)| t == first) => format!(" (T = {first})"),
        Some(_) => {
            let each = all
                .iter()
                .map(|(name, t)| format!("T = {t} for {}", escape(name)));
            format!(" ({})", each.collect::<Vec<_>>().join(", "))
        }
    }
}

fn model(student: &Student, role: &str) -> String {
    let cells = [
        role.to_owned(),
        percent(&student.test_accuracy),
        decimal(&student.test_nll),
        decimal(&student.ece),
        optional(student.agreement_with_teacher.as_ref().map(percent)),
        optional(student.kl_to_teacher.as_ref().map(decimal)),
        optional(student.kl_to_teacher_at_temperature.as_ref().map(decimal)),
        count(student.parameters),
    ];
    row(&student.name, cells.each_ref().map(String::as_str))
}

/// All classes of one student, folded away.
pub(super) fn classes(student: &Student, alone: Option<&Student>) -> String {
    let excess = |row: &ClassRow| row.inherited.as_ref()?.pooled();
    let rows: String = student
        .per_class
        .iter()
        .enumerate()
        .map(|(i, class)| {
            let without = alone.and_then(|a| a.per_class.get(i));
            let cells = [
                optional(class.accuracy.as_ref().map(percent)),
                optional(without.and_then(|w| w.accuracy.as_ref()).map(percent)),
                optional(class.gain.as_ref().map(points)),
                optional(class.agreement.as_ref().map(percent)),
                optional(excess(class).map(|e| Unit::Points.value(e))),
                optional(without.and_then(excess).map(|e| Unit::Points.value(e))),
                count(class.support),
            ];
            row(&class.class, cells.each_ref().map(String::as_str))
        })
        .collect();
    let title = format!("{}: classes", student.name);
    let heads = [
        "class",
        "accuracy",
        "alone",
        "gain",
        "agreement",
        "shared mistakes",
        "alone",
        "test samples",
    ];
    let note = "Shared mistakes: share of the mistakes that the teacher makes as well, beyond chance, over all seeds together.";
    format!(
        "<details>\n<summary>{} as a table</summary>\n{}<p class=\"note\">{note}</p>\n</details>\n",
        escape(&title),
        table(&title, &heads, &rows)
    )
}

/// What teachers sent; nothing for a job in which none did.
pub(super) fn soft_targets(report: &Report) -> String {
    let sent = &report.soft_targets;
    if sent.samples == 0 && report.students.is_empty() {
        return String::new();
    }
    let versions = report.teachers.iter().map(|t| {
        let name = format!("Versions of {}, summed over seeds", t.name);
        (
            name,
            format!(
                "{} activated, {} trained on",
                count(t.versions),
                count(t.versions_trained_on)
            ),
        )
    });
    let of_sample = sent.bytes as f64 / sent.samples.max(1) as f64;
    let each = match sent.bytes_per_target {
        Some(bytes) if report.dataset.targets_per_sample > 1 => {
            format!(" ({of_sample:.0} bytes a sample, {bytes:.1} a token)")
        }
        Some(_) => format!(" ({of_sample:.0} bytes a sample)"),
        None => String::new(),
    };
    let facts = [
        ("Samples trained on with soft targets", count(sent.samples)),
        (
            "Frames",
            format!(
                "{}, {} of them rejected",
                count(sent.frames),
                count(sent.rejected)
            ),
        ),
        ("On the wire", format!("{}{each}", bytes(sent.bytes))),
        ("Encoding", optional(sent.encoding.as_deref().map(escape))),
        ("Temperature", optional(sent.temperature.map(|t| t.to_string()))),
        ("Samples trained on without", count(sent.samples_without)),
        (
            "Greatest staleness seen",
            optional(sent.max_staleness_seen.map(|v| counted(v, "version"))),
        ),
        (
            "Samples by versions behind",
            by_staleness(&sent.samples_by_staleness),
        ),
        (
            "Teacher's share of the gradient",
            optional(sent.teacher_gradient_share.map(|s| format!("{:.0} %", 100.0 * s))),
        ),
    ];
    pairs(
        "Soft targets",
        facts.map(|(k, v)| (k.to_owned(), v)).into_iter().chain(versions),
    )
}

/// Where the time of each group's replicas went; nothing where none was measured.
pub(super) fn time(report: &Report) -> String {
    let share = |value: f64| Unit::Percent.value(value);
    let groups = report.students.iter().chain(&report.baselines);
    let rows = groups.filter_map(|s| {
        let t = s.time?;
        let cells = [t.compute, t.input, t.teacher, t.lease, t.sync, t.checkpoint].map(share);
        Some(row(&s.name, cells.each_ref().map(String::as_str)))
    });
    let rows: String = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = [
        "model",
        "steps",
        "reading samples",
        "soft targets",
        "work",
        "other replicas",
        "versions",
    ];
    let note = "Shares of the time of all replicas and seeds: what they did, or waited for. Work is waited for at the ends of \
                epochs, and where the pace ties student and teacher.";
    format!(
        "{}<p class=\"note\">{note}</p>\n",
        table("Where the time went", &heads, &rows)
    )
}

/// How replicas stayed one model; nothing where there was one of each.
pub(super) fn sync(report: &Report) -> String {
    let sync = &report.sync;
    if sync.bytes == 0 {
        return String::new();
    }
    let facts = [
        ("Rounds", count(sync.rounds)),
        ("Exchanged", bytes(sync.bytes)),
        (
            "From contributions to merges, all replicas",
            duration(sync.seconds),
        ),
    ];
    pairs("Replicas", facts.map(|(k, v)| (k.to_owned(), v)).into_iter())
}

/// `0: 1,200, 1: 97`; what has none is left out.
fn by_staleness(samples: &[u64]) -> String {
    let behind = ["0", "1", "2", "3", "4 or more"];
    let some = behind.iter().zip(samples).filter(|(_, n)| **n > 0);
    let parts: Vec<String> = some.map(|(v, n)| format!("{v}: {}", count(*n))).collect();
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join("; ")
    }
}

/// What became of the samples.
pub(super) fn ledger(report: &Report) -> String {
    let ledger = &report.ledger;
    if ledger.samples == 0 {
        return String::new();
    }
    let sound =
        ledger.duplicates == 0 && ledger.lost == 0 && ledger.committed + ledger.quarantined == ledger.samples;
    let (class, result) = match sound {
        true => (
            "good",
            "Every sample of every epoch is in the final weights exactly once, or is listed as quarantined.",
        ),
        false => (
            "bad",
            "The final weights do not contain every sample exactly once.",
        ),
    };
    let facts = [
        (
            "Samples, over all epochs, student groups and seeds",
            ledger.samples,
        ),
        ("Committed", ledger.committed),
        ("Quarantined", ledger.quarantined),
        ("Duplicates", ledger.duplicates),
        ("Lost", ledger.lost),
        ("Leased again after a lease was revoked", ledger.redelivered),
        ("Rolled back to an older checkpoint", ledger.rolled_back),
    ];
    let rate = report
        .throughput
        .samples_per_s
        .map(|r| ("Samples per second".to_owned(), count(r.round() as u64)));
    let facts = facts
        .into_iter()
        .map(|(k, v)| (k.to_owned(), count(v)))
        .chain(rate);
    let note = "Recomputed from the manifests on disk, along the lineage of the final weights; <code>retort audit</code> repeats it.";
    format!(
        "<p class=\"{class}\">{result}</p>\n{}<p class=\"note\">{note}</p>\n",
        pairs("Samples", facts)
    )
}

/// What it takes to get this page again.
pub(super) fn origin(report: &Report) -> String {
    let (run, data) = (&report.run, &report.dataset);
    let seeds: Vec<String> = run.seeds.iter().map(u64::to_string).collect();
    let facts = [
        ("Command", format!("<code>{}</code>", escape(&run.command))),
        ("Seeds", seeds.join(", ")),
        ("Data", escape(&data.name)),
        (
            "Digest of the data",
            format!("<code>{}</code>", escape(&data.digest)),
        ),
        (
            "Split",
            format!(
                "{} training ({} labelled, {} that came without a label), {} validation, {} test",
                count(data.train),
                count(data.labelled),
                count(data.unlabelled),
                count(data.validation),
                count(data.test)
            ),
        ),
        ("Retort", escape(&run.retort)),
        ("Tuning", super::super::TUNED.to_owned()),
    ];
    let bad = (data.bad_rows.count > 0).then(|| ("Rows left out", bad_rows(&data.bad_rows)));
    let tuned = (!run.retuned.is_empty()).then(|| ("Tuned while it ran", retuned(&run.retuned)));
    let facts = facts.into_iter().chain(bad).chain(tuned);
    let job = match run.job.is_empty() {
        true => String::new(),
        false => format!(
            "<details>\n<summary>The job</summary>\n<pre>{}</pre>\n</details>\n",
            escape(&run.job)
        ),
    };
    format!(
        "{}{job}",
        pairs("Origin of this report", facts.map(|(k, v)| (k.to_owned(), v)))
    )
}

fn retuned(runs: &[Retuned]) -> String {
    let told = |value: Option<f64>| value.map_or("the job's".to_owned(), |v| v.to_string());
    let one = |r: &Retuned| {
        let (alpha, temperature) = (told(r.alpha), told(r.temperature));
        format!(
            "seed {}: alpha {alpha}, temperature {temperature} at the end",
            r.seed
        )
    };
    let all: Vec<String> = runs.iter().map(one).collect();
    format!("{}. The command alone does not repeat it.", all.join("; "))
}

/// How many, and the first of them.
fn bad_rows(bad: &BadRows) -> String {
    let rows = bad.first.iter().map(|row| format!("<br>{}", escape(row)));
    let more = if bad.count > bad.first.len() as u64 {
        "<br>..."
    } else {
        ""
    };
    let count = count(bad.count);
    format!(
        "{count}, since they cannot be used:{}{more}",
        rows.collect::<String>()
    )
}

/// Where a value does not exist.
pub(super) const NONE: &str = "<span class=\"none\">n/a</span>";

fn optional(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| NONE.to_owned())
}

/// The first cell is a name and escaped; the others are HTML already.
pub(super) fn row<const N: usize>(name: &str, cells: [&str; N]) -> String {
    let cells: String = cells.iter().map(|c| format!("<td>{c}</td>")).collect();
    format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", escape(name))
}

/// A table that scrolls by itself where the page is too narrow for it.
pub(super) fn table(label: &str, heads: &[&str], rows: &str) -> String {
    let heads: String = heads
        .iter()
        .map(|h| format!("<th scope=\"col\">{h}</th>"))
        .collect();
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"{}\" tabindex=\"0\">\n<table>\n<thead><tr>{heads}</tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table>\n</div>\n",
        escape(label)
    )
}

/// Facts one below the other; names are escaped, values are HTML already.
fn pairs(label: &str, facts: impl Iterator<Item = (String, String)>) -> String {
    let rows: String = facts
        .map(|(name, value)| format!("<div><dt>{}</dt><dd>{value}</dd></div>\n", escape(&name)))
        .collect();
    format!("<dl aria-label=\"{label}\">\n{rows}</dl>\n")
}

fn percent(metric: &Metric) -> String {
    with_sd(metric, |v| format!("{:.1}", 100.0 * v), " %")
}

fn points(metric: &Metric) -> String {
    with_sd(metric, |v| format!("{:.1}", in_points(v)), " points")
}

fn decimal(metric: &Metric) -> String {
    with_sd(metric, |v| format!("{v:.3}"), "")
}

fn with_sd(metric: &Metric, write: impl Fn(f64) -> String, unit: &str) -> String {
    if metric.values.len() == 1 {
        return format!("{}{unit}", write(metric.mean));
    }
    format!(
        "{} <span class=\"sd\">± {}{unit}</span>",
        write(metric.mean),
        write(metric.sd)
    )
}

/// With thousands set apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|g| std::str::from_utf8(g).ok())
        .collect();
    groups.join(",")
}

pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

pub(super) fn bytes(number: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = "bytes";
    for larger in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "bytes" {
        format!("{number} bytes")
    } else {
        format!("{value:.1} {unit}")
    }
}

pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0, 1023, 1024, 5 << 20].map(bytes),
            ["0 bytes", "1023 bytes", "1.0 KiB", "5.0 MiB"]
        );
        assert_eq!(
            [0.4, 71.4, 3725.0].map(duration),
            ["0 s", "1 min 11 s", "1 h 2 min"]
        );
        assert_eq!(
            (counted(1, "seed"), counted(5, "seed")),
            ("1 seed".to_owned(), "5 seeds".to_owned())
        );
        assert_eq!(percent(&vec![0.5].into()), "50.0 %");
    }
}

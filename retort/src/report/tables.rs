//! The tables of a report, as plain text: page and document each write them in their own way.

use super::numbers::{amount, bytes, count, counted, decimal, duration, milliseconds, percent, points};
use super::svg::Unit;
use super::{BadRows, ClassRow, Cost, Metric, Report, Retuned, Student};

/// Rows of one kind. What stands between backticks in the note is code.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) title: String,
    pub(super) heads: Vec<&'static str>,
    pub(super) rows: Vec<Row>,
    pub(super) note: String,
}

/// Its name, and a cell for each further head; `None` where a value does not exist.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) cells: Vec<Option<String>>,
}

/// Facts one below the other. What stands between backticks in a value or the note is code.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) title: &'static str,
    pub(super) pairs: Vec<(String, Option<String>)>,
    pub(super) note: &'static str,
}

impl Table {
    /// Nothing without rows.
    fn of(
        title: impl Into<String>,
        heads: &[&'static str],
        rows: impl Iterator<Item = Row>,
        note: String,
    ) -> Option<Self> {
        let rows: Vec<Row> = rows.collect();
        (!rows.is_empty()).then(|| Self {
            title: title.into(),
            heads: heads.to_vec(),
            rows,
            note,
        })
    }
}

fn row<const N: usize>(name: &str, cells: [Option<String>; N]) -> Row {
    Row {
        name: name.to_owned(),
        cells: cells.into(),
    }
}

fn some(metric: Option<&Metric>, write: impl Fn(&Metric) -> String) -> Option<String> {
    metric.map(write)
}

/// Of which data, and how long it took.
pub(super) fn summary(report: &Report) -> String {
    let (run, data) = (&report.run, &report.dataset);
    format!(
        "{}: {} training samples, {} of them labelled, {} for testing · {} · {}",
        data.name,
        count(data.train),
        count(data.labelled),
        count(data.test),
        counted(run.seeds.len() as u64, "seed"),
        duration(run.wall_s)
    )
}

/// Every model on the test data, and what only some have.
pub(super) fn results(report: &Report) -> Vec<Table> {
    let tables = [quality(report), perplexities(report), left_out(report)];
    tables.into_iter().flatten().collect()
}

fn quality(report: &Report) -> Option<Table> {
    let teachers = report.teachers.iter().map(|t| {
        row(
            &t.name,
            [
                Some("teacher".into()),
                Some(percent(&t.test_accuracy)),
                Some(decimal(&t.test_nll)),
                Some(decimal(&t.ece)),
                None,
                None,
                None,
                Some(count(t.parameters)),
            ],
        )
    });
    let students = report.students.iter().flat_map(|s| {
        // The smaller models that end at its exits.
        let exits = s.exits.iter().map(|exit| {
            let accuracy = Some(percent(&exit.test_accuracy));
            let parameters = Some(count(exit.parameters));
            row(
                &format!("{} up to {}", s.name, exit.at),
                [
                    Some("exit".into()),
                    accuracy,
                    None,
                    None,
                    None,
                    None,
                    None,
                    parameters,
                ],
            )
        });
        let alone = report.baseline_of(&s.name).map(|alone| model(alone, "alone"));
        [model(s, "student")].into_iter().chain(exits).chain(alone)
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
    let note = format!(
        "Mean ± standard deviation over seeds, on test data, at temperature 1. NLL: negative log-likelihood of the \
         labels, in nats. ECE: expected calibration error. Agreement: how often model and teacher name the same class. \
         KL: divergence from the teacher, in nats; at T: of what both say at the temperature of teaching{}. Lower is better \
         for NLL, ECE and KL.",
        temperatures(report)
    );
    Table::of("Results on test data", &heads, teachers.chain(students), note)
}

fn model(student: &Student, role: &str) -> Row {
    row(
        &student.name,
        [
            Some(role.to_owned()),
            Some(percent(&student.test_accuracy)),
            Some(decimal(&student.test_nll)),
            Some(decimal(&student.ece)),
            some(student.agreement_with_teacher.as_ref(), percent),
            some(student.kl_to_teacher.as_ref(), decimal),
            some(student.kl_to_teacher_at_temperature.as_ref(), decimal),
            Some(count(student.parameters)),
        ],
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
            let each = all.iter().map(|(name, t)| format!("T = {t} for {name}"));
            format!(" ({})", each.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Of language models.
fn perplexities(report: &Report) -> Option<Table> {
    let teachers = report.teachers.iter();
    let teachers = teachers.map(|t| (&t.name, &t.test_perplexity, &t.test_bits_per_byte));
    let students = report.students.iter().chain(&report.baselines);
    let students = students.map(|s| (&s.name, &s.test_perplexity, &s.test_bits_per_byte));
    let rows = teachers.chain(students).filter_map(|(name, perplexity, bits)| {
        let perplexity = decimal(perplexity.as_ref()?);
        Some(row(name, [Some(perplexity), some(bits.as_ref(), decimal)]))
    });
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
    Table::of("Perplexity", &["model", "perplexity", "bits a byte"], rows, note)
}

/// The classes that training went without.
fn left_out(report: &Report) -> Option<Table> {
    let models = report.students.iter().chain(&report.baselines);
    let rows = models.filter_map(|s| {
        let out = s.left_out.as_ref()?;
        let cells = [
            some(out.accuracy.as_ref(), percent),
            some(out.corrected.as_ref(), percent),
            Some(percent(&out.test_accuracy)),
            Some(decimal(&out.bias)),
        ];
        Some(row(&s.name, cells))
    });
    let heads = ["model", "accuracy", "with a bias", "all classes, with it", "bias"];
    let note = "Test samples of the classes that training went without. The bias is added to the logits of these classes; it \
                is the one with which most of the validation data is put right.";
    Table::of("Classes left out of training", &heads, rows, note.into())
}

/// The students that were measured by class, each with itself alone.
pub(super) fn by_class(report: &Report) -> impl Iterator<Item = (&Student, Option<&Student>)> {
    let students = report.students.iter().filter(|s| !s.per_class.is_empty());
    students.map(|s| (s, report.baseline_of(&s.name)))
}

/// All classes of every student.
pub(super) fn classes(report: &Report) -> Vec<Table> {
    by_class(report)
        .filter_map(|(s, alone)| classes_of(s, alone))
        .collect()
}

fn classes_of(student: &Student, alone: Option<&Student>) -> Option<Table> {
    let shared = |row: &ClassRow| Some(Unit::Points.value(row.inherited.as_ref()?.pooled()?));
    let rows = student.per_class.iter().enumerate().map(|(i, class)| {
        let without = alone.and_then(|a| a.per_class.get(i));
        let cells = [
            some(class.accuracy.as_ref(), percent),
            some(without.and_then(|w| w.accuracy.as_ref()), percent),
            some(class.gain.as_ref(), points),
            some(class.agreement.as_ref(), percent),
            shared(class),
            without.and_then(shared),
            Some(count(class.support)),
        ];
        row(&class.class, cells)
    });
    let heads = [
        "class",
        "accuracy",
        "alone",
        "gain",
        "agreement",
        "shared mistakes",
        "shared, alone",
        "test samples",
    ];
    let note = "Shared mistakes: share of the mistakes that the teacher makes as well, beyond chance, over all seeds together.";
    Table::of(format!("{}: classes", student.name), &heads, rows, note.into())
}

/// What a model takes to keep and to run.
pub(super) struct Costed<'a> {
    pub(super) name: &'a str,
    pub(super) role: &'static str,
    parameters: u64,
    pub(super) bytes: u64,
    flops: Option<u64>,
    pub(super) cost: Option<&'a Cost>,
}

/// Teachers and students. A baseline is missing: it costs what its student does.
pub(super) fn costed(report: &Report) -> Vec<Costed<'_>> {
    let teachers = report.teachers.iter().map(|t| Costed {
        name: &t.name,
        role: "teacher",
        parameters: t.parameters,
        bytes: t.bytes,
        flops: t.flops_per_sample,
        cost: t.cost.as_ref(),
    });
    let students = report.students.iter().map(|s| Costed {
        name: &s.name,
        role: "student",
        parameters: s.parameters,
        bytes: s.bytes,
        flops: s.flops_per_sample,
        cost: s.cost.as_ref(),
    });
    teachers.chain(students).collect()
}

/// What the models cost, and how it was measured.
pub(super) fn costs(report: &Report) -> Option<Table> {
    let heads = [
        "model",
        "role",
        "parameters",
        "size",
        "FLOPs per sample",
        "latency",
        "95th percentile",
        "samples per second",
        "J per 1,000",
    ];
    let models = costed(report);
    let rows = models.iter().map(|m| {
        let cells = [
            Some(m.role.to_owned()),
            Some(count(m.parameters)),
            Some(bytes(m.bytes)),
            m.flops.map(count),
            m.cost.map(|c| milliseconds(c.latency_ms)),
            m.cost.map(|c| milliseconds(c.latency_p95_ms)),
            m.cost.map(|c| count(c.samples_per_s.round() as u64)),
            m.cost.and_then(|c| c.joules_per_1000).map(|j| amount(j, "J")),
        ];
        row(m.name, cells)
    });
    Table::of(
        "What the models cost",
        &heads,
        rows,
        how_measured(report, &models),
    )
}

fn how_measured(report: &Report, models: &[Costed<'_>]) -> String {
    let costs: Vec<&Cost> = models.iter().filter_map(|m| m.cost).collect();
    let Some(first) = costs.first() else {
        return "Time and energy could not be measured.".to_owned();
    };
    let (fewest, most) = costs.iter().fold((u64::MAX, 0), |(fewest, most), cost| {
        (fewest.min(cost.latency_calls), most.max(cost.latency_calls))
    });
    let calls = if fewest == most {
        count(most)
    } else {
        format!("{} to {}", count(fewest), count(most))
    };
    let machine = &report.machine;
    let energy = if costs.iter().all(|c| c.joules_per_1000.is_none()) {
        " Energy: not available on this machine, whose processor has no counter that can be read."
    } else {
        ""
    };
    format!(
        "Measured on {}, device {}, which may use {}, by the call that `retort predict` makes, one after the \
         other: {calls} calls with one sample after others to warm up, then calls with {}. A forward pass always holds {}, \
         so that one sample takes as long as they do; of an ONNX model it holds one, or as many as the file says.{energy}",
        machine.processor.as_deref().unwrap_or("an unnamed processor"),
        machine.device,
        counted(machine.threads, "thread"),
        first.batch,
        counted(first.batch, "sample")
    )
}

/// What teachers sent; nothing for a job in which none did.
pub(super) fn soft_targets(report: &Report) -> Option<Facts> {
    let sent = &report.soft_targets;
    if sent.samples == 0 && report.students.is_empty() {
        return None;
    }
    let versions = report.teachers.iter().map(|t| {
        let (activated, used) = (count(t.versions), count(t.versions_trained_on));
        let told = format!("{activated} activated, {used} trained on");
        (format!("Versions of {}, summed over seeds", t.name), Some(told))
    });
    let of_sample = sent.bytes as f64 / sent.samples.max(1) as f64;
    let each = match sent.bytes_per_target {
        Some(bytes) if report.dataset.targets_per_sample > 1 => {
            format!(" ({of_sample:.0} bytes a sample, {bytes:.1} a token)")
        }
        Some(_) => format!(" ({of_sample:.0} bytes a sample)"),
        None => String::new(),
    };
    let frames = format!(
        "{}, {} of them rejected",
        count(sent.frames),
        count(sent.rejected)
    );
    let pairs = [
        ("Samples trained on with soft targets", Some(count(sent.samples))),
        ("Frames", Some(frames)),
        ("On the wire", Some(bytes(sent.bytes) + &each)),
        ("Encoding", sent.encoding.clone()),
        ("Temperature", sent.temperature.map(|t| t.to_string())),
        ("Samples trained on without", Some(count(sent.samples_without))),
        (
            "Greatest staleness seen",
            sent.max_staleness_seen.map(|v| counted(v, "version")),
        ),
        (
            "Samples by versions behind",
            Some(by_staleness(&sent.samples_by_staleness)),
        ),
        (
            "Teacher's share of the gradient",
            sent.teacher_gradient_share.map(|s| format!("{:.0} %", 100.0 * s)),
        ),
    ];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value));
    Some(Facts {
        title: "Soft targets",
        pairs: pairs.into_iter().chain(versions).collect(),
        note: "",
    })
}

/// `0: 1,200; 1: 97`; what has none is left out.
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

/// Where the time of each group's replicas went; nothing where none was measured.
pub(super) fn time(report: &Report) -> Option<Table> {
    let share = |value: f64| Some(Unit::Percent.value(value));
    let groups = report.students.iter().chain(&report.baselines);
    let rows = groups.filter_map(|s| {
        let t = s.time?;
        let parts = [t.compute, t.input, t.teacher, t.lease, t.sync, t.checkpoint];
        Some(row(&s.name, parts.map(share)))
    });
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
    Table::of("Where the time went", &heads, rows, note.into())
}

/// How replicas stayed one model; nothing where there was one of each.
pub(super) fn sync(report: &Report) -> Option<Facts> {
    let sync = &report.sync;
    let pairs = [
        ("Rounds", count(sync.rounds)),
        ("Exchanged", bytes(sync.bytes)),
        (
            "From contributions to merges, all replicas",
            duration(sync.seconds),
        ),
    ];
    (sync.bytes > 0).then(|| Facts {
        title: "Replicas",
        pairs: pairs.map(|(name, value)| (name.to_owned(), Some(value))).into(),
        note: "",
    })
}

/// Whether the samples add up, in words; nothing where there were none.
pub(super) fn soundness(report: &Report) -> Option<(bool, &'static str)> {
    let l = &report.ledger;
    let sound = l.duplicates == 0 && l.lost == 0 && l.committed + l.quarantined == l.samples;
    let said = match sound {
        true => {
            "Every sample of every epoch is in the final weights exactly once, or is listed as quarantined."
        }
        false => "The final weights do not contain every sample exactly once.",
    };
    (l.samples > 0).then_some((sound, said))
}

/// What became of the samples.
pub(super) fn ledger(report: &Report) -> Option<Facts> {
    let ledger = &report.ledger;
    let counts = [
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
    let rate = report.throughput.samples_per_s;
    let rate = rate.map(|r| ("Samples per second", r.round() as u64));
    let counts = counts.into_iter().chain(rate);
    (ledger.samples > 0).then(|| Facts {
        title: "Samples",
        pairs: counts
            .map(|(name, n)| (name.to_owned(), Some(count(n))))
            .collect(),
        note: "Recomputed from the manifests on disk, along the lineage of the final weights; `retort audit` repeats it.",
    })
}

/// What it takes to get this report again.
pub(super) fn origin(report: &Report) -> Facts {
    let (run, data) = (&report.run, &report.dataset);
    let seeds: Vec<String> = run.seeds.iter().map(u64::to_string).collect();
    let split = format!(
        "{} training ({} labelled, {} that came without a label), {} validation, {} test",
        count(data.train),
        count(data.labelled),
        count(data.unlabelled),
        count(data.validation),
        count(data.test)
    );
    let pairs = [
        ("Command", format!("`{}`", run.command)),
        ("Seeds", seeds.join(", ")),
        ("Data", data.name.clone()),
        ("Digest of the data", format!("`{}`", data.digest)),
        ("Split", split),
        ("Retort", run.retort.clone()),
        ("Tuning", super::TUNED.to_owned()),
    ];
    let bad = (data.bad_rows.count > 0).then(|| ("Rows left out", bad_rows(&data.bad_rows)));
    let tuned = (!run.retuned.is_empty()).then(|| ("Tuned while it ran", retuned(&run.retuned)));
    let pairs = pairs.into_iter().chain(bad).chain(tuned);
    let pairs = pairs.map(|(name, value)| (name.to_owned(), Some(value)));
    let digests = digests(report);
    let note = match digests.as_slice() {
        [] => "",
        _ => {
            "Digests of weights are BLAKE3: `b3sum` of the exported `model.safetensors`, or of what stands for it, gives them again."
        }
    };
    Facts {
        title: "Origin of this report",
        pairs: pairs.chain(digests).collect(),
        note,
    }
}

/// Of the exported teachers and students; one that is both is named once.
fn digests(report: &Report) -> Vec<(String, Option<String>)> {
    let is_student = |name: &str| report.students.iter().any(|s| s.name == name);
    let teachers = report.teachers.iter().filter(|t| !is_student(&t.name));
    let teachers = teachers.map(|t| (&t.name, &t.weights_blake3));
    let students = report.students.iter().map(|s| (&s.name, &s.weights_blake3));
    let models = teachers
        .chain(students)
        .filter(|(_, digests)| !digests.is_empty());
    let row = |(name, digests): (&String, &Vec<String>)| {
        let told = by_seed(&report.run.seeds, digests);
        (format!("Digest of {name}'s weights"), Some(told))
    };
    models.map(row).collect()
}

/// One where all are the same, else a line for each seed.
fn by_seed(seeds: &[u64], digests: &[String]) -> String {
    match digests {
        [first, rest @ ..] if rest.iter().all(|d| d == first) => format!("`{first}`"),
        _ => {
            let lines = seeds
                .iter()
                .zip(digests)
                .map(|(seed, d)| format!("\n{seed}: `{d}`"));
            format!("one for each seed{}", lines.collect::<String>())
        }
    }
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

/// How many, and the first of them, a line each.
fn bad_rows(bad: &BadRows) -> String {
    let rows = bad.first.iter().map(|row| format!("\n{row}"));
    let more = if bad.count > bad.first.len() as u64 {
        "\n..."
    } else {
        ""
    };
    format!(
        "{}, since they cannot be used:{}{more}",
        count(bad.count),
        rows.collect::<String>()
    )
}

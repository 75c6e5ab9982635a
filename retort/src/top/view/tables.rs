//! The tables: who learns, who is there, and who teaches.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table, TableState};
use retort_proto::pb;

use super::super::board::{Board, Member};
use super::{COLOURS, titled};

/// Silence that is worth a colour: heartbeats come twice a second.
const SILENT_MS: u64 = 2_000;
/// Answers of a teacher server that cost no forward pass, by the names of its counters.
const CACHED: [&str; 3] = ["hits", "coalesced", "replayed"];

fn table<'a, const N: usize>(
    title: &'a str,
    head: [&'a str; N],
    widths: [Constraint; N],
    rows: Vec<Row<'a>>,
) -> Table<'a> {
    Table::new(rows, widths)
        .header(Row::new(head).style(Style::new().add_modifier(Modifier::DIM)))
        .block(titled(title))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}

pub(super) fn groups(state: &pb::RunStatus) -> Table<'_> {
    let rows = state
        .groups
        .iter()
        .zip(COLOURS.iter().cycle())
        .map(|(group, colour)| group_row(state, group, *colour));
    table(
        "learning",
        [
            "group",
            "merged",
            "epoch",
            "samples/s",
            "hard",
            "KL",
            "alpha",
            "held out",
            "bad",
        ],
        [
            Constraint::Fill(1),
            Constraint::Length(14),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(5),
            Constraint::Length(5),
            Constraint::Length(5),
            Constraint::Length(8),
            Constraint::Length(3),
        ],
        rows.collect(),
    )
}

fn group_row<'a>(state: &pb::RunStatus, g: &'a pb::GroupStatus, colour: Color) -> Row<'a> {
    let ledger = g.ledger.unwrap_or_default();
    let all = u64::from(g.epochs) * state.positions_per_epoch;
    let done = ledger.total_committed + ledger.total_quarantined + ledger.acked;
    let rate = g.workers.iter().fold(0.0, |sum, w| sum + w.samples_per_s);
    let last = g.last.unwrap_or_default();
    let accuracy = g.held_out.map(|e| e.accuracy);
    Row::new([
        Line::from(g.name.as_str()).fg(colour),
        bar(done, all).into(),
        format!("{}/{}", (g.epoch + 1).min(g.epochs), g.epochs).into(),
        format!("{rate:.0}").into(),
        number(last.hard_loss, 3).into(),
        number(last.kl, 3).into(),
        format!("{:.2}", g.alpha).into(),
        number(accuracy.map(|a| 100.0 * a), 1).into(),
        ledger.total_quarantined.to_string().into(),
    ])
}

pub(super) fn draw_fleet(frame: &mut Frame<'_>, area: Rect, board: &Board) {
    let members = board.members();
    let widths = [
        widest(members.iter().map(|m| m.name.as_str())),
        widest(members.iter().map(|m| m.part.as_str())),
        widest(members.iter().map(|m| m.device.as_str())),
        Constraint::Length(9),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Fill(1),
    ];
    let table = table(
        "fleet",
        [
            "member",
            "part",
            "device",
            "samples/s",
            "holds",
            "silent",
            "slowed or stopped by",
        ],
        widths,
        members.into_iter().map(member_row).collect(),
    );
    let mut chosen = TableState::default().with_selected(board.chosen);
    frame.render_stateful_widget(table, area, &mut chosen);
}

fn member_row(m: Member) -> Row<'static> {
    let silent = Cell::from(format!("{:.1} s", m.silent_ms as f64 / 1e3));
    let silent = match m.silent_ms > SILENT_MS {
        true => silent.style(Style::new().fg(Color::Red).bold()),
        false => silent,
    };
    Row::new([
        Cell::from(m.name),
        Cell::from(m.part),
        Cell::from(m.device),
        Cell::from(format!("{:.0}", m.samples_per_s)),
        Cell::from(m.holds.to_string()),
        silent,
        Cell::from(m.note),
    ])
}

/// A column as wide as its longest name, within reason; at least as wide as its head.
fn widest<'a>(names: impl Iterator<Item = &'a str>) -> Constraint {
    let longest = names.map(|name| name.chars().count()).max().unwrap_or(0);
    Constraint::Length(longest.clamp(7, 24) as u16)
}

pub(super) fn teachers(state: &pb::RunStatus) -> Table<'_> {
    table(
        "teachers",
        [
            "teacher",
            "source",
            "version",
            "serving",
            "samples/s",
            "queue",
            "wait",
            "cached",
            "loss",
        ],
        [
            Constraint::Fill(1),
            Constraint::Length(10),
            Constraint::Length(12),
            Constraint::Length(7),
            Constraint::Length(9),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(5),
        ],
        state.teachers.iter().map(teacher_row).collect(),
    )
}

fn teacher_row(t: &pb::TeacherStatus) -> Row<'static> {
    let version = |v: Option<u64>| v.map_or("-".to_owned(), |v| v.to_string());
    let serving = t.servers.iter().filter(|s| s.drained.is_empty());
    let rate = t.servers.iter().fold(0.0, |sum, s| sum + s.samples_per_s);
    let queued: u64 = t.servers.iter().map(|s| s.queued_samples).sum();
    // The longest: a student that asks this server waits so long.
    let wait = t.servers.iter().filter_map(|s| s.queue_wait_s).reduce(f64::max);
    Row::new([
        t.name.clone(),
        t.source.clone(),
        format!("{} of {}", version(t.active), version(t.published)),
        format!("{} of {}", serving.count(), t.servers.len()),
        format!("{rate:.0}"),
        queued.to_string(),
        with_unit(wait, 1, "s"),
        with_unit(cached(&t.servers).map(|share| 100.0 * share), 0, "%"),
        number(t.held_out_loss, 3),
    ])
}

/// Share of the answers that no forward pass was made for; `None`: nobody asked yet.
fn cached(servers: &[pb::ServerStatus]) -> Option<f64> {
    let count = |name: &str| servers.iter().filter_map(|s| s.counters.get(name)).sum::<u64>();
    let cached: u64 = CACHED.into_iter().map(count).sum();
    let all = cached + count("misses");
    (all > 0).then(|| cached as f64 / all as f64)
}

/// `######....  63 %`
fn bar(done: u64, all: u64) -> String {
    const CELLS: u64 = 8;
    let share = |of: u64| (done.min(all) * of).checked_div(all).unwrap_or(0);
    let filled = share(CELLS) as usize;
    format!(
        "{}{} {:>3} %",
        "█".repeat(filled),
        "·".repeat(CELLS as usize - filled),
        share(100)
    )
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |v| format!("{v:.digits$}"))
}

fn with_unit(value: Option<f64>, digits: usize, unit: &str) -> String {
    value.map_or("-".into(), |v| format!("{v:.digits$} {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_whole_cells_and_no_division_by_nothing() {
        assert_eq!(bar(0, 0), "········   0 %");
        assert_eq!(bar(63, 100), "█████···  63 %");
        assert_eq!(bar(200, 100), "████████ 100 %");
    }

    #[test]
    fn what_cost_no_forward_pass_is_cached() {
        let server = |counters: [(&str, u64); 2]| pb::ServerStatus {
            counters: counters.map(|(name, count)| (name.to_owned(), count)).into(),
            ..Default::default()
        };
        assert_eq!(cached(&[server([("forwards", 9), ("evicted", 9)])]), None);
        let servers = [
            server([("hits", 2), ("misses", 1)]),
            server([("coalesced", 1), ("forwards", 9)]),
        ];
        assert_eq!(cached(&servers), Some(0.75));
    }
}

//! The screen.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Cell, Chart, Dataset, GraphType, Paragraph, Row, Table, TableState};
use retort_proto::pb;

use super::board::{Board, Curves};
use crate::follow;

const KEYS: &str = "q leave  ↑↓ choose  d drain  p pause/resume  s stop  c other curve";
/// Of the groups' curves, in order; told apart by brightness too, and named in the legend.
const COLOURS: [Color; 6] = [
    Color::Cyan,
    Color::Yellow,
    Color::Green,
    Color::Magenta,
    Color::Blue,
    Color::Red,
];
/// Silence that is worth a colour: heartbeats come twice a second.
const SILENT_MS: u64 = 2_000;
/// Lines of events that are always there, frame included.
const EVENTS: u16 = 6;
/// Narrower screens put the curves below the tables.
const WIDE: u16 = 110;

pub(super) fn draw(frame: &mut Frame<'_>, board: &mut Board) {
    let Some(state) = board.state().cloned() else {
        let text = format!("waiting for a run\n\n{}\n\n{KEYS}", board.line());
        frame.render_widget(
            Paragraph::new(text).block(Block::bordered().title(" retort ")),
            frame.area(),
        );
        return;
    };
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(8), Constraint::Length(2)])
            .areas(frame.area());
    frame.render_widget(headline(&state), head);
    let [left, right] = match body.width >= WIDE {
        true => Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(body),
        false => Layout::vertical([Constraint::Fill(3), Constraint::Fill(2)]).areas(body),
    };
    let members = board.members().len() as u16;
    // A large fleet leaves room for what happened: its table scrolls to who is chosen.
    let [groups, fleet, events] = Layout::vertical([
        Constraint::Length(state.groups.len() as u16 + 3),
        Constraint::Max(members + 3),
        Constraint::Min(EVENTS),
    ])
    .areas(left);
    frame.render_widget(groups_table(&state), groups);
    draw_members(frame, fleet, board);
    draw_events(frame, events, &state);
    let [curves, teachers] = Layout::vertical([
        Constraint::Fill(1),
        Constraint::Length(state.teachers.len() as u16 + 3),
    ])
    .areas(right);
    draw_curves(frame, curves, &state, board.curves);
    frame.render_widget(teachers_table(&state), teachers);
    let line = Line::from(board.line());
    let line = if board.urgent() {
        line.yellow().bold()
    } else {
        line
    };
    frame.render_widget(Paragraph::new(vec![line, Line::from(KEYS).dim()]), foot);
}

fn headline(state: &pb::RunStatus) -> Line<'static> {
    let colour = match state.state.as_str() {
        "running" | "done" => Color::Green,
        "failed" => Color::Red,
        _ => Color::Yellow,
    };
    let mut spans = vec![
        Span::from(" retort ").bold().reversed(),
        Span::from(format!(" {} ", state.name)).bold(),
        Span::from(state.state.clone()).fg(colour).bold(),
        Span::from(format!(
            " after {:.0} s, run {}, seed {}",
            state.age_s, state.run, state.seed
        )),
    ];
    if let Some(seconds) = state.remaining_s {
        spans.push(Span::from(format!(", {}", follow::left(seconds))));
    }
    if !state.reason.is_empty() {
        spans.push(Span::from(format!(": {}", state.reason)).fg(colour));
    }
    Line::from(spans)
}

fn titled(title: &str) -> Block<'_> {
    Block::bordered()
        .border_style(Style::new().dim())
        .title(Line::from(format!(" {title} ")).bold())
}

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

fn groups_table(state: &pb::RunStatus) -> Table<'_> {
    let rows = state
        .groups
        .iter()
        .zip(COLOURS.iter().cycle())
        .map(|(g, colour)| {
            let ledger = g.ledger.unwrap_or_default();
            let all = u64::from(g.epochs) * state.positions_per_epoch;
            let done = ledger.total_committed + ledger.total_quarantined + ledger.acked;
            let rate = g.workers.iter().fold(0.0, |sum, w| sum + w.samples_per_s);
            let last = g.last.unwrap_or_default();
            let accuracy = g.held_out.map(|e| e.accuracy);
            Row::new([
                Line::from(g.name.clone()).fg(*colour),
                bar(done, all).into(),
                format!("{}/{}", (g.epoch + 1).min(g.epochs), g.epochs).into(),
                format!("{rate:.0}").into(),
                number(last.hard_loss, 3).into(),
                number(last.kl, 3).into(),
                format!("{:.2}", g.alpha).into(),
                number(accuracy.map(|a| 100.0 * a), 1).into(),
                ledger.total_quarantined.to_string().into(),
            ])
        });
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

fn draw_members(frame: &mut Frame<'_>, area: Rect, board: &Board) {
    let members = board.members();
    let names = widest(members.iter().map(|m| m.name.as_str()));
    let rows = members.into_iter().map(|m| {
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
    });
    let table = table(
        "fleet",
        ["member", "part", "device", "samples/s", "holds", "silent", ""],
        [
            names,
            Constraint::Fill(2),
            Constraint::Length(8),
            Constraint::Length(9),
            Constraint::Length(6),
            Constraint::Length(7),
            Constraint::Fill(2),
        ],
        rows.collect(),
    );
    let mut chosen = TableState::default().with_selected(board.chosen);
    frame.render_stateful_widget(table, area, &mut chosen);
}

/// A column as wide as its longest name, within reason; at least as wide as its head.
fn widest<'a>(names: impl Iterator<Item = &'a str>) -> Constraint {
    let longest = names.map(|name| name.chars().count()).max().unwrap_or(0);
    Constraint::Length(longest.clamp(7, 24) as u16)
}

fn teachers_table(state: &pb::RunStatus) -> Table<'_> {
    let version = |v: Option<u64>| v.map_or("-".to_owned(), |v| v.to_string());
    let rows = state.teachers.iter().map(|t| {
        let serving = t.servers.iter().filter(|s| s.drained.is_empty());
        Row::new([
            t.name.clone(),
            t.source.clone(),
            format!("{} of {}", version(t.active), version(t.published)),
            format!("{} of {}", serving.count(), t.servers.len()),
            t.servers
                .iter()
                .map(|s| s.queued_samples)
                .sum::<u64>()
                .to_string(),
            number(t.held_out_loss, 3),
        ])
    });
    table(
        "teachers",
        ["teacher", "source", "version", "serving", "queue", "loss"],
        [
            widest(state.teachers.iter().map(|t| t.name.as_str())),
            Constraint::Fill(1),
            Constraint::Length(10),
            Constraint::Length(7),
            Constraint::Length(5),
            Constraint::Length(6),
        ],
        rows.collect(),
    )
}

/// The newest ones, the last below.
fn draw_events(frame: &mut Frame<'_>, area: Rect, state: &pb::RunStatus) {
    let room = usize::from(area.height.saturating_sub(2));
    // Versions come and go by the second; the tables have the newest.
    let told: Vec<&pb::Event> = state.events.iter().filter(|e| e.kind != "version").collect();
    let lines: Vec<Line<'_>> = told[told.len().saturating_sub(room)..]
        .iter()
        .map(|e| {
            Line::from(vec![
                Span::from(format!("{:8.1} s  ", e.at_s)).dim(),
                Span::from(e.text.as_str()),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(titled("events")), area);
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, state: &pb::RunStatus, curves: Curves) {
    let lines: Vec<(&str, Vec<(f64, f64)>)> = state
        .groups
        .iter()
        .map(|g| {
            let points = g.curve.iter();
            let points = points.filter_map(|p| Some((p.positions as f64, curves.value(p)?)));
            (g.name.as_str(), points.collect())
        })
        .collect();
    let all = || lines.iter().flat_map(|(_, points)| points);
    let right = all().map(|p| p.0).fold(1.0, f64::max);
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| {
        (low.min(p.1), high.max(p.1))
    });
    // Nothing yet, or one value only: some height all the same.
    let (low, high) = match low <= high {
        true if high - low > 1e-9 => (low, high),
        true => (low - 0.5, high + 0.5),
        false => (0.0, 1.0),
    };
    let sets = lines
        .iter()
        .zip(COLOURS.iter().cycle())
        .map(|((name, points), colour)| {
            Dataset::default()
                .name(*name)
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(*colour))
                .data(points)
        });
    let label = |value: f64| format!("{value:.2}");
    let chart = Chart::new(sets.collect())
        // Always: colours alone do not say whose curve it is.
        .hidden_legend_constraints((Constraint::Min(0), Constraint::Min(0)))
        .block(titled(curves.title()))
        .x_axis(
            Axis::default()
                .bounds([0.0, right])
                .labels(["0".to_owned(), format!("{right:.0} samples")]),
        )
        .y_axis(
            Axis::default()
                .bounds([low, high])
                .labels([label(low), label(high)]),
        );
    frame.render_widget(chart, area);
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

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::board::tests::running;
    use super::*;

    fn screen(width: u16, height: u16, board: &mut Board) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, board)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_run_is_on_the_screen() {
        let mut board = Board::default();
        assert!(screen(80, 24, &mut board).contains("waiting for a run"));
        board.show(running());
        let wide = screen(140, 40, &mut board);
        for part in [
            "digits",
            "running after 12 s",
            "w1 joined small",
            "7 of 8",
            "answers with NaN",
            "a newer version",
            "held-out accuracy",
            // 3,996 committed and 64 merged of 51,880.
            "7 %",
            "1234",
        ] {
            assert!(wide.contains(part), "{part:?} is missing in\n{wide}");
        }
    }

    #[test]
    fn the_curves_are_named_beside_them() {
        let mut board = Board::default();
        board.show(running());
        for (width, height) in [(110, 24), (140, 40)] {
            let shown = screen(width, height, &mut board);
            let chart = shown
                .lines()
                .map(|line| line.chars().skip(width as usize * 3 / 5).collect());
            let chart = chart.collect::<Vec<String>>();
            let (from, to) = (
                chart
                    .iter()
                    .position(|l| l.contains("held-out accuracy"))
                    .unwrap(),
                chart.iter().position(|l| l.contains("samples")).unwrap(),
            );
            for name in ["wide", "small"] {
                assert!(
                    chart[from..to].iter().any(|l| l.contains(name)),
                    "{name}\n{shown}"
                );
            }
            assert!(shown.contains("w1 joined small"), "{shown}");
        }
    }

    #[test]
    fn any_size_is_drawn() {
        let mut board = Board::default();
        board.show(running());
        for (width, height) in [(1, 1), (20, 5), (60, 12), (80, 24), (110, 30), (400, 100)] {
            screen(width, height, &mut board);
        }
        board.show(pb::RunStatus::default());
        screen(80, 24, &mut board);
    }

    #[test]
    fn a_coordinator_that_is_away_is_told() {
        let mut board = Board::default();
        board.show(running());
        board.away("nobody answers".into());
        assert!(screen(120, 30, &mut board).contains("no news: nobody answers"));
        board.show(running());
        assert!(!screen(120, 30, &mut board).contains("no news"));
    }

    #[test]
    fn bars_have_whole_cells_and_no_division_by_nothing() {
        assert_eq!(bar(0, 0), "········   0 %");
        assert_eq!(bar(63, 100), "█████···  63 %");
        assert_eq!(bar(200, 100), "████████ 100 %");
    }
}

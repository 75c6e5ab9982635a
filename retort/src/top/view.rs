//! The screen.

mod curves;
mod places;
mod tables;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};
use retort_proto::pb;

use self::places::{Places, Rows};
use super::board::Board;
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
    let rows = Rows {
        groups: state.groups.len(),
        teachers: state.teachers.len(),
        members: board.members().len(),
    };
    let places = Places::new(body, rows);
    frame.render_widget(headline(&state), head);
    frame.render_widget(tables::groups(&state), places.groups);
    frame.render_widget(tables::teachers(&state), places.teachers);
    draw_events(frame, places.events, &state);
    curves::draw(frame, places.curves, &state, board.curves);
    tables::draw_fleet(frame, places.fleet, board);
    draw_foot(frame, foot, board);
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, board: &Board) {
    let line = Line::from(board.line());
    let line = if board.urgent() {
        line.yellow().bold()
    } else {
        line
    };
    frame.render_widget(Paragraph::new(vec![line, Line::from(KEYS).dim()]), area);
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

/// The newest ones, the last below.
fn draw_events(frame: &mut Frame<'_>, area: Rect, state: &pb::RunStatus) {
    let room = usize::from(area.height.saturating_sub(2));
    let width = usize::from(area.width.saturating_sub(2));
    // Versions come and go by the second; the tables have the newest.
    let events: Vec<&pb::Event> = state.events.iter().filter(|e| e.kind != "version").collect();
    let newest = &events[events.len().saturating_sub(room)..];
    let mut lines: Vec<Line<'_>> = newest.iter().flat_map(|e| told(e, width)).collect();
    lines.drain(..lines.len().saturating_sub(room));
    frame.render_widget(Paragraph::new(lines).block(titled("events")), area);
}

/// An event as lines of at most so many characters; the later ones are indented.
fn told(event: &pb::Event, width: usize) -> Vec<Line<'static>> {
    let mut before = format!("{:8.1} s  ", event.at_s);
    let indent = before.chars().count();
    wrapped(&event.text, width.saturating_sub(indent))
        .into_iter()
        .map(|text| {
            let time = std::mem::replace(&mut before, " ".repeat(indent));
            Line::from(vec![Span::from(time).dim(), Span::from(text)])
        })
        .collect()
}

/// Lines of at most so many characters, broken between words, and within a word that is longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for piece in letters.chunks(width.max(1)) {
            if length > 0 && length + 1 + piece.len() > width {
                lines.push(std::mem::take(&mut line));
                length = 0;
            }
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            line.extend(piece);
            length += piece.len();
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;

    use super::super::board::Curves;
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
        for (width, height) in [(120, 24), (140, 40)] {
            let shown = screen(width, height, &mut board);
            // Right of the tables, and of the quote that opens a line.
            let chart = shown.lines().map(|line| line.chars().skip(83).collect());
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

    /// Whether a line of the fleet begins with a name and a part.
    fn has_member(shown: &str, name: &str, part: &str) -> bool {
        shown.lines().any(|line| {
            let words = line.split(|c: char| c.is_whitespace() || c == '│' || c == '"');
            let mut words = words.filter(|word| !word.is_empty());
            words.next() == Some(name) && words.next() == Some(part)
        })
    }

    #[test]
    fn who_is_chosen_is_seen_on_a_small_screen() {
        let mut board = Board::default();
        let mut state = running();
        // More members than such a screen has lines.
        let workers = (0..40).map(|i| pb::WorkerStatus {
            worker: format!("m{i}"),
            ..Default::default()
        });
        state.groups[1].workers.extend(workers);
        board.show(state);
        for (width, height) in [(80, 24), (80, 30), (120, 24)] {
            for (chosen, name, part) in [(0, "w0", "wide"), (2, "w2", "small"), (42, "m39", "small")] {
                board.chosen = chosen;
                let shown = screen(width, height, &mut board);
                assert!(has_member(&shown, name, part), "{name} is missing in\n{shown}");
            }
        }
        assert!(
            screen(80, 30, &mut board).contains("held-out accuracy"),
            "the curves are there as soon as there is room"
        );
    }

    #[test]
    fn nothing_is_cut_at_120_columns() {
        let mut board = Board::default();
        let mut state = running();
        state.groups[1].name = "small@alone".into();
        let worker = &mut state.groups[1].workers[0];
        worker.worker = "student-worker-3".into();
        worker.spent = vec![1.0, 0.0, 0.0, 0.0, 9.0, 0.0];
        state.groups[1].waiting_for = "the other replicas' contributions".into();
        state.events[0].text = "student-worker student-worker-3 joined as small@alone (incarnation 1)".into();
        board.show(state);
        for curves in 0..Curves::ALL.len() {
            let shown = screen(120, 30, &mut board);
            for part in [
                "sync 90 %; the other replicas' contributions",
                "wide (server)",
                "student-worker student-worker-3 joined as small@alone (incarnation",
                "1)",
                board.curves.title(),
            ] {
                assert!(
                    shown.contains(part),
                    "{part:?} is missing with curve {curves} in\n{shown}"
                );
            }
            board.press(KeyCode::Tab);
        }
    }

    #[test]
    fn a_teacher_tells_its_load_its_wait_and_its_cache() {
        let mut board = Board::default();
        board.show(running());
        let shown = screen(120, 30, &mut board);
        let teacher = shown.lines().find(|line| line.contains("trained")).unwrap();
        for part in ["7 of 8", "0 of 1", "2500", " 500 ", "0.2 s", "75 %"] {
            assert!(teacher.contains(part), "{part:?} is missing in {teacher}");
        }
    }

    #[test]
    fn a_long_event_goes_on_below() {
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("one two", 7), ["one two"]);
        assert_eq!(wrapped("one two six", 7), ["one two", "six"]);
        assert_eq!(wrapped("a abcdefgh", 3), ["a", "abc", "def", "gh"]);
        // No room at all is no reason to loop for ever.
        assert_eq!(wrapped("ab", 0), ["a", "b"]);
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
}

//! Where the parts of the screen are.

use ratatui::layout::{Constraint, Layout, Rect};

/// Frame and head of a table.
const TABLE: u16 = 3;
/// Lines of the fleet that are there first, so that who is chosen is seen: its table scrolls.
const FLEET: u16 = TABLE + 2;
/// Lines of events, frame included, that are there before the fleet has more than that.
const EVENTS: u16 = 3;
/// Lines of curves below the tables: two of them are the axis, two the frame.
const CURVES: u16 = 7;
/// Lower screens have no room for curves below the tables.
const TALL: u16 = 27;
/// Narrower screens have the curves below the tables.
const WIDE: u16 = 120;
/// Columns that the tables beside the curves take.
const COLUMNS: u16 = 82;

#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) groups: Rect,
    pub(super) teachers: Rect,
    pub(super) events: Rect,
    /// Empty on a low, narrow screen.
    pub(super) curves: Rect,
    pub(super) fleet: Rect,
}

/// Rows that each table has to show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) groups: usize,
    pub(super) teachers: usize,
    pub(super) members: usize,
}

/// Lines of each part; events have the others.
struct Heights {
    groups: u16,
    teachers: u16,
    curves: u16,
    fleet: u16,
}

impl Places {
    /// The fleet across the screen, all else above it.
    pub(super) fn new(body: Rect, rows: Rows) -> Self {
        let wide = body.width >= WIDE;
        let below = !wide && body.height >= TALL;
        let heights = Heights::new(body.height, rows, below);
        let [above, fleet] =
            Layout::vertical([Constraint::Fill(1), Constraint::Length(heights.fleet)]).areas(body);
        let [tables, curves] = if wide {
            let columns = COLUMNS.max(body.width / 5 * 3);
            Layout::horizontal([Constraint::Length(columns), Constraint::Fill(1)]).areas(above)
        } else {
            Layout::vertical([Constraint::Fill(1), Constraint::Length(heights.curves)]).areas(above)
        };
        let [groups, teachers, events] = Layout::vertical([
            Constraint::Length(heights.groups),
            Constraint::Length(heights.teachers),
            Constraint::Fill(1),
        ])
        .areas(tables);
        Self {
            groups,
            teachers,
            events,
            curves,
            fleet,
        }
    }
}

impl Heights {
    /// On a low screen events shrink first. A large fleet has half of the screen.
    fn new(height: u16, rows: Rows, curves_below: bool) -> Self {
        let mut left = height;
        let mut take = |wanted: u16| {
            let taken = wanted.min(left);
            left -= taken;
            taken
        };
        let all = table(rows.members);
        let first = take(all.min(FLEET));
        let groups = take(table(rows.groups));
        let teachers = take(table(rows.teachers));
        let curves = take(if curves_below { CURVES } else { 0 });
        take(EVENTS);
        let fleet = first + take(all.min(height / 2).saturating_sub(first));
        Self {
            groups,
            teachers,
            curves: if curves_below { curves + left / 3 * 2 } else { 0 },
            fleet,
        }
    }
}

/// Lines of a table.
fn table(rows: usize) -> u16 {
    u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: Rows = Rows {
        groups: 3,
        teachers: 1,
        members: 4,
    };

    fn places(width: u16, height: u16, rows: Rows) -> Places {
        Places::new(Rect::new(0, 1, width, height), rows)
    }

    #[test]
    fn a_low_screen_shrinks_events_and_keeps_the_tables() {
        let low = places(80, 21, ROWS);
        assert_eq!(low.groups.height, 6);
        assert_eq!(low.teachers.height, 4);
        assert_eq!(low.fleet.height, 7);
        assert_eq!((low.events.height, low.curves.height), (4, 0));
        let lower = places(80, 12, ROWS);
        assert_eq!((lower.fleet.height, lower.events.height), (5, 0));
    }

    #[test]
    fn curves_are_below_the_tables_or_beside_them() {
        let tall = places(80, 27, ROWS);
        assert_eq!((tall.curves.width, tall.curves.height), (80, 7));
        let wide = places(120, 21, ROWS);
        assert_eq!((wide.groups.width, wide.curves.width), (82, 38));
        assert_eq!((wide.curves.height, wide.fleet.height), (14, 7));
        assert_eq!(wide.fleet.width, 120);
    }

    #[test]
    fn a_large_fleet_leaves_half_of_the_screen() {
        let large = Rows {
            members: 100_000,
            ..ROWS
        };
        let tall = places(80, 60, large);
        assert_eq!(tall.fleet.height, 30);
        assert!(
            tall.events.height >= EVENTS && tall.curves.height >= CURVES,
            "{tall:?}"
        );
    }
}

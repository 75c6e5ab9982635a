//! Random views of a sample. Only additions, multiplications and square roots: the same bits on every machine.

use crate::config::Views;
use crate::dataset::Shape;
use crate::rng::Rng;
use crate::text::PADDING;
use crate::wav::mel::RANGE_DB;

/// Where one output coordinate lies on the source axis: the index below it and the share of the next one.
type Place = (isize, f32);

/// What views may change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Changes {
    rows: Move,
    columns: Move,
    flip: bool,
    /// In units of values.
    gain: f32,
    noise: f32,
    /// Share of a text's tokens that become padding.
    pub(crate) drop: f32,
    /// Both parameters of the beta distribution that shares of mixed views are drawn from; 0: views are not mixed.
    pub(crate) mixup: f32,
}

/// Of one axis.
#[derive(Debug, Clone, Default, PartialEq)]
struct Move {
    crop: u32,
    shift: u32,
}

impl Changes {
    /// Of images and signals.
    pub(crate) fn in_both_axes(views: &Views) -> Self {
        let changes = Self::in_time(views);
        Self {
            columns: changes.rows.clone(),
            ..changes
        }
    }

    /// Of spectra, whose rows are frames: a sound keeps its pitch.
    pub(crate) fn in_time(views: &Views) -> Self {
        Self {
            rows: Move {
                crop: views.crop,
                shift: views.shift,
            },
            columns: Move::default(),
            flip: views.flip,
            gain: (f64::from(views.gain) / RANGE_DB) as f32,
            noise: views.noise,
            drop: views.drop,
            mixup: views.mixup,
        }
    }

    /// Whether a view is the sample itself.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::in_time(&Views::default())
    }
}

/// Writes a view of `source` into `out`. Which numbers are drawn does not depend on which views are on, so switching
/// one on leaves what the others do.
pub(crate) fn apply(changes: &Changes, shape: Shape, rng: &mut Rng, source: &[f32], out: &mut [f32]) {
    let first = rng.next_u64();
    let mirrored = first >> 63 == 1 && changes.flip;
    // From -1 to 1, of bits that the mirror leaves.
    let loudness = (first >> 8 & 0xff_ffff) as f32 / (1u32 << 23) as f32 - 1.0;
    let gain = loudness * changes.gain;
    let rows = axis(shape.height, &changes.rows, false, rng);
    let columns = axis(shape.width, &changes.columns, mirrored, rng);
    let plane = shape.height * shape.width;
    for (source, out) in source.chunks_exact(plane).zip(out.chunks_exact_mut(plane)) {
        let at = |y: isize, x: isize| {
            let inside = (0..shape.height as isize).contains(&y) && (0..shape.width as isize).contains(&x);
            if inside {
                source[y as usize * shape.width + x as usize]
            } else {
                0.0
            }
        };
        for (out, &(y, below)) in out.chunks_exact_mut(shape.width).zip(&rows) {
            for (out, &(x, right)) in out.iter_mut().zip(&columns) {
                let upper = blend(at(y, x), at(y, x + 1), right);
                let lower = blend(at(y + 1, x), at(y + 1, x + 1), right);
                *out = blend(upper, lower, below);
            }
        }
    }
    if gain != 0.0 {
        let heard = out.iter_mut().filter(|value| **value > 0.0);
        heard.for_each(|value| *value = (*value + gain).max(0.0));
    }
    if changes.noise > 0.0 {
        for out in out {
            *out += changes.noise * rng.gaussian() as f32;
        }
    }
}

/// Writes tokens into `out`, each but borders of documents replaced by padding with probability `rate`.
pub(crate) fn drop_tokens(
    rate: f32,
    border: Option<u16>,
    rng: &mut Rng,
    (source, out): (&[f32], &mut [f32]),
) {
    let border = border.map(f32::from);
    for (out, &token) in out.iter_mut().zip(source) {
        let dropped = rng.uniform_f32() < rate && Some(token) != border;
        *out = if dropped { f32::from(PADDING) } else { token };
    }
}

/// Makes `out` the mean of itself and another view, of which it takes `share`.
pub(crate) fn mix_in(other: &[f32], share: f32, out: &mut [f32]) {
    for (out, &other) in out.iter_mut().zip(other) {
        *out = blend(*out, other, share);
    }
}

/// Exactly `a` for a share of 0.
fn blend(a: f32, b: f32, share: f32) -> f32 {
    a * (1.0 - share) + b * share
}

/// Draws crop and shift of one axis. An axis of a single value stays as it is.
fn axis(side: usize, most: &Move, mirrored: bool, rng: &mut Rng) -> Vec<Place> {
    let crop = rng.below(u64::from(most.crop) + 1) as usize;
    let offset = rng.below(crop as u64 + 1) as isize;
    let shift = rng.below(2 * u64::from(most.shift) + 1) as isize - most.shift as isize;
    if side == 1 {
        return vec![(0, 0.0)];
    }
    let place = |i: usize| {
        let i = if mirrored { side - 1 - i } else { i };
        let scaled = i * (side - 1 - crop);
        let share = (scaled % (side - 1)) as f32 / (side - 1) as f32;
        ((scaled / (side - 1)) as isize + offset - shift, share)
    };
    (0..side).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        channels: 2,
        height: 5,
        width: 4,
    };

    fn source() -> Vec<f32> {
        (1..=SHAPE.len()).map(|i| i as f32).collect()
    }

    fn view(views: &Views, seed: u64) -> Vec<f32> {
        let mut out = vec![f32::NAN; SHAPE.len()];
        let changes = Changes::in_both_axes(views);
        apply(&changes, SHAPE, &mut Rng::new(seed), &source(), &mut out);
        out
    }

    #[test]
    fn no_views_change_nothing() {
        assert_eq!(view(&Views::default(), 1), source());
    }

    #[test]
    fn flips_are_mirror_images_half_of_the_time() {
        let views = Views {
            flip: true,
            ..Views::default()
        };
        let mirror: Vec<f32> = source()
            .chunks(4)
            .flat_map(|row| row.iter().rev().copied())
            .collect();
        let flipped = (0..1_000)
            .map(|seed| view(&views, seed))
            .inspect(|got| assert!(*got == source() || *got == mirror))
            .filter(|got| *got == mirror)
            .count();
        assert!((440..560).contains(&flipped), "{flipped}");
    }

    #[test]
    fn shifts_move_and_fill_with_zero_over_the_whole_range() {
        let views = Views {
            shift: 2,
            ..Views::default()
        };
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let got = view(&views, seed);
            let moved = (-2isize..=2)
                .flat_map(|dy| (-2isize..=2).map(move |dx| (dy, dx)))
                .find(|&(dy, dx)| {
                    let expected: Vec<f32> = (0..2)
                        .flat_map(|c| {
                            (0..5isize).flat_map(move |y| (0..4isize).map(move |x| (c, y - dy, x - dx)))
                        })
                        .map(|(c, y, x)| match (0..5).contains(&y) && (0..4).contains(&x) {
                            true => (c * 20 + y * 4 + x + 1) as f32,
                            false => 0.0,
                        })
                        .collect();
                    got == expected
                });
            seen.insert(moved.expect("a shift of the source"));
        }
        assert_eq!(seen.len(), 25);
    }

    #[test]
    fn crops_stay_inside_the_sample() {
        let views = Views {
            crop: 2,
            ..Views::default()
        };
        let mut distinct = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let got = view(&views, seed);
            assert!(
                got[..20].iter().all(|value| (1.0..=20.0).contains(value)),
                "{got:?}"
            );
            distinct.insert(got.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        }
        assert!(distinct.len() > 20);
    }

    #[test]
    fn noise_has_its_deviation_and_leaves_the_rest() {
        let quiet = Views {
            shift: 1,
            ..Views::default()
        };
        let noisy = Views {
            noise: 0.1,
            ..quiet.clone()
        };
        let mut square = 0.0;
        for seed in 0..500 {
            let pairs = view(&quiet, seed).into_iter().zip(view(&noisy, seed));
            square += pairs.map(|(a, b)| (b - a) * (b - a)).sum::<f32>();
        }
        let deviation = (square / (500.0 * SHAPE.len() as f32)).sqrt();
        assert!((deviation - 0.1).abs() < 0.003, "{deviation}");
    }

    #[test]
    fn tokens_are_dropped_at_their_rate() {
        let source: Vec<f32> = (1..=1_000).map(|id| id as f32).collect();
        let mut out = vec![f32::NAN; 1_000];
        drop_tokens(0.2, None, &mut Rng::new(1), (&source, &mut out));
        let dropped = out.iter().filter(|&&id| id == 0.0).count();
        assert!((160..240).contains(&dropped), "{dropped}");
        assert!(out.iter().zip(&source).all(|(out, id)| *out == 0.0 || out == id));
        drop_tokens(0.99, Some(1), &mut Rng::new(1), (&[1.0; 1_000], &mut out));
        assert_eq!(out, [1.0; 1_000], "borders of documents stay");
    }
}

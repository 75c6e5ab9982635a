//! Log-mel spectra, the same bits on every machine.
//!
//! Frames of `window_ms` every `hop_ms`, without padding at the ends; a periodic Hann window w; the power spectrum
//! `|X_k|² / sum(w²)` over the next power of two (so that white noise of deviation s has s² everywhere); triangles of
//! height 1 between points that lie equally far apart, from 0 to half the rate, on the mel scale of the HTK book (S. Young
//! et al., section 5.4): `mel(f) = 2595 log10(1 + f / 700)`. These are the filters of
//! `torchaudio.functional.melscale_fbanks` and of `librosa.filters.mel(htk=True, norm=None)`. A value is
//! `max(0, 1 + 10 log10(e) / 80)` of a filter's energy e: 0 is silence or whatever lies 80 dB below 1, and a decibel is
//! 1 / 80.

use super::fft::Fft;

/// Decibels from the floor, which is 0, to 1.
pub(crate) const RANGE_DB: f64 = 80.0;
/// Energy of the floor.
const FLOOR: f64 = 1e-8;

/// From samples to spectra.
pub(super) struct FrontEnd {
    window: Vec<f64>,
    /// Samples from one frame to the next.
    hop: usize,
    fft: Fft,
    filters: Vec<Filter>,
}

/// Weights of neighbouring frequencies, the first of which is `first` steps above 0.
struct Filter {
    first: usize,
    weights: Vec<f64>,
}

impl FrontEnd {
    /// `window` and `hop` in samples, at least 2 and 1. If some filter would hold no frequency of the spectrum: how many
    /// filters there can be.
    pub(super) fn new(rate: u32, window: usize, hop: usize, mels: u32) -> Result<Self, u32> {
        let fft = Fft::new(window.next_power_of_two());
        let made = |mels| filters(mels, rate, fft.len());
        let Some(filters) = made(mels) else {
            return Err((1..mels).rev().find(|&fewer| made(fewer).is_some()).unwrap_or(0));
        };
        Ok(Self {
            window: hann(window),
            hop,
            fft,
            filters,
        })
    }

    /// Frames of so many samples.
    pub(super) fn frames(&self, samples: usize) -> usize {
        match samples.checked_sub(self.window.len()) {
            Some(rest) => 1 + rest / self.hop,
            None => 0,
        }
    }

    /// The frames of a signal one after the other, a value for each filter from the lowest up.
    pub(super) fn spectra(&self, signal: &[f64]) -> Vec<f32> {
        let squares: f64 = self.window.iter().map(|w| w * w).sum();
        let frames = signal.windows(self.window.len()).step_by(self.hop);
        let spectrum = |frame: &[f64]| {
            let weighted: Vec<f64> = frame.iter().zip(&self.window).map(|(x, w)| x * w).collect();
            let power = self.fft.power(&weighted);
            let value = move |filter: &Filter| {
                let energy: f64 = filter
                    .weights
                    .iter()
                    .zip(&power[filter.first..])
                    .map(|(w, p)| w * p)
                    .sum();
                decibels(energy / squares)
            };
            self.filters.iter().map(value).collect::<Vec<_>>()
        };
        frames.flat_map(spectrum).collect()
    }
}

/// An energy on the scale of values.
fn decibels(energy: f64) -> f32 {
    if energy <= FLOOR {
        return 0.0;
    }
    (1.0 + 10.0 * libm::log10(energy) / RANGE_DB).max(0.0) as f32
}

fn hann(len: usize) -> Vec<f64> {
    let weight = |i: usize| 0.5 - 0.5 * libm::cos(2.0 * std::f64::consts::PI * i as f64 / len as f64);
    (0..len).map(weight).collect()
}

/// None if one of them is empty.
fn filters(mels: u32, rate: u32, fft: usize) -> Option<Vec<Filter>> {
    let half = f64::from(rate) / 2.0;
    let step = f64::from(rate) / fft as f64;
    let hertz = |point: u32| from_mel(to_mel(half) * f64::from(point) / f64::from(mels + 1));
    let filter = |mel: u32| {
        let [low, middle, high] = [mel, mel + 1, mel + 2].map(hertz);
        let weight = |k: usize| {
            let frequency = k as f64 * step;
            let (rise, fall) = (
                (frequency - low) / (middle - low),
                (high - frequency) / (high - middle),
            );
            rise.min(fall)
        };
        let inside = |k: &usize| weight(*k) > 0.0;
        let first = (0..=fft / 2).find(inside)?;
        let weights = (first..=fft / 2).take_while(inside).map(weight).collect();
        Some(Filter { first, weights })
    };
    (0..mels).map(filter).collect()
}

fn to_mel(hertz: f64) -> f64 {
    2595.0 * libm::log10(1.0 + hertz / 700.0)
}

fn from_mel(mel: f64) -> f64 {
    700.0 * (libm::exp(mel / 2595.0 * std::f64::consts::LN_10) - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(7 i² + 13 i) mod 20001 - 10000` for i below 800, as 16-bit samples.
    fn noise() -> Vec<f64> {
        let sample = |i: u32| f64::from((7 * i * i + 13 * i) % 20_001) - 10_000.0;
        (0..800).map(|i| sample(i) / 32_768.0).collect()
    }

    fn front_end() -> FrontEnd {
        FrontEnd::new(8_000, 200, 80, 32).expect("no filter is empty")
    }

    /// The expected values come from NumPy 2.4.6 and librosa 0.11.0 (x as in `noise`, s the first sample of a frame):
    ///
    /// ```python
    /// w = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200)
    /// M = librosa.filters.mel(sr=8000, n_fft=256, n_mels=32, fmin=0, fmax=4000, htk=True, norm=None, dtype=np.float64)
    /// P = np.abs(np.fft.rfft(np.stack([x[s:s + 200] for s in range(0, 601, 80)]) * w, 256)) ** 2 / (w ** 2).sum()
    /// v = np.maximum(0, 1 + np.log10(np.maximum(P @ M.T, 1e-8)) / 8)
    /// ```
    #[test]
    fn agrees_with_librosa() {
        let values = front_end().spectra(&noise());
        assert_eq!(values.len(), 8 * 32);
        for (frame, mel, expected) in [
            (0, 0, 0.704_020_346_760_518),
            (0, 31, 0.833_334_931_444_686_7),
            (3, 15, 0.791_743_124_476_374_6),
            (7, 0, 0.768_226_155_541_797_5),
            (7, 31, 1.018_525_161_387_458_6),
        ] {
            let found = f64::from(values[frame * 32 + mel]);
            assert!((found - expected).abs() < 1e-7, "{frame} {mel}: {found}");
        }
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        assert!((mean - 0.831_869_424_071_605).abs() < 1e-7, "{mean}");
        // The same at a 3000th of the amplitude, where most lies below the floor.
        let quiet: Vec<f64> = noise().iter().map(|x| x / 3_000.0).collect();
        let values = front_end().spectra(&quiet);
        assert_eq!(values.iter().filter(|&&v| v == 0.0).count(), 174);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        assert!((mean - 0.016_045_058_691_563_932).abs() < 1e-7, "{mean}");
    }

    #[test]
    fn a_tone_is_loudest_in_its_filter() {
        let tone = |hertz: f64| -> Vec<f64> {
            (0..200)
                .map(|i| (std::f64::consts::TAU * hertz * f64::from(i) / 8_000.0).sin())
                .collect()
        };
        for mel in [4u32, 12, 20, 31] {
            let middle = from_mel(to_mel(4_000.0) * f64::from(mel + 1) / 33.0);
            let spectrum = front_end().spectra(&tone(middle));
            let loudest = (0u32..)
                .zip(&spectrum)
                .max_by(|a, b| a.1.total_cmp(b.1))
                .expect("some")
                .0;
            assert_eq!(loudest, mel);
        }
    }

    #[test]
    fn counts_whole_frames_and_says_how_many_filters_there_can_be() {
        let front_end = front_end();
        let frames = [0, 199, 200, 279, 280, 8_000].map(|samples| front_end.frames(samples));
        assert_eq!(frames, [0, 0, 1, 1, 2, 98]);
        // The limits of librosa's filters, too.
        assert_eq!(FrontEnd::new(8_000, 200, 80, 128).err(), Some(86));
        assert_eq!(FrontEnd::new(16_000, 400, 160, 115).err(), Some(114));
        assert!(FrontEnd::new(16_000, 400, 160, 114).is_ok());
    }
}

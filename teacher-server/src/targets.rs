//! A scored block on its way to readers: softened and encoded once for all who ask alike.

// A lock: readers' tasks share the block and add frames to it; it is never held while one is made.
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use retort_codec::Encoding;

/// How a reader wants its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Terms {
    /// Bits of the temperature, so that terms have an order.
    temperature: u32,
    pub(crate) encoding: Encoding,
}

impl Terms {
    pub(crate) fn new(temperature: f32, encoding: Encoding) -> Self {
        Self {
            temperature: temperature.to_bits(),
            encoding,
        }
    }

    pub(crate) fn temperature(&self) -> f32 {
        f32::from_bits(self.temperature)
    }
}

/// One block by one version (P4).
#[derive(Debug)]
pub(crate) struct Targets {
    pub(crate) version: u64,
    pub(crate) classes: usize,
    /// Positions whose samples could not be read; their rows are placeholders.
    pub(crate) unreadable: Vec<u64>,
    /// Encoded, where a layer was asked for; empty otherwise.
    pub(crate) features: Bytes,
    made: Mutex<Made>,
}

#[derive(Debug)]
struct Made {
    /// Row by row; `None` once the only frame that was wanted of large ones is made.
    logits: Option<Arc<[f32]>>,
    keeps_logits: bool,
    frames: Vec<(Terms, Bytes)>,
}

impl Targets {
    /// `keeps_logits`: frames on other terms may be asked for later.
    pub(crate) fn new(
        version: u64,
        classes: usize,
        logits: Arc<[f32]>,
        keeps_logits: bool,
        unreadable: Vec<u64>,
    ) -> Self {
        Self {
            version,
            classes,
            unreadable,
            features: Bytes::new(),
            made: Mutex::new(Made {
                logits: Some(logits),
                keeps_logits,
                frames: Vec::new(),
            }),
        }
    }

    /// With encoded features beside them.
    pub(crate) fn with_features(self, features: Bytes) -> Self {
        Self { features, ..self }
    }

    /// A frame that was made before.
    pub(crate) fn replayed(version: u64, classes: usize, terms: Terms, frame: Bytes) -> Self {
        Self {
            version,
            classes,
            unreadable: Vec::new(),
            features: Bytes::new(),
            made: Mutex::new(Made {
                logits: None,
                keeps_logits: false,
                frames: vec![(terms, frame)],
            }),
        }
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all that it holds.
    pub(crate) fn bytes(&self) -> usize {
        let made = self.made();
        let logits = made.logits.as_ref().map_or(0, |l| l.len() * size_of::<f32>());
        let frames = made.frames.iter().map(|(_, f)| f.len()).sum::<usize>();
        logits + frames + self.features.len()
    }

    /// Log-probabilities that have to be made for a frame on these terms; 0: it is here.
    pub(crate) fn work(&self, terms: Terms) -> usize {
        let made = self.made();
        match made.frames.iter().any(|(t, _)| *t == terms) {
            true => 0,
            false => made.logits.as_ref().map_or(0, |l| l.len()),
        }
    }

    /// The frame on these terms, and whether it was made now.
    ///
    /// # Errors
    ///
    /// What is wrong with the logits, in words.
    pub(crate) fn frame(&self, terms: Terms) -> Result<(Bytes, bool), String> {
        let logits = {
            let made = self.made();
            if let Some((_, frame)) = made.frames.iter().find(|(t, _)| *t == terms) {
                return Ok((frame.clone(), false));
            }
            made.logits.clone().ok_or("its logits are not kept")?
        };
        let frame = encode(&logits, self.classes, terms)?;
        let mut made = self.made();
        // Two readers may have made it at once: the first one's is shared.
        if let Some((_, frame)) = made.frames.iter().find(|(t, _)| *t == terms) {
            return Ok((frame.clone(), false));
        }
        made.frames.push((terms, frame.clone()));
        if !made.keeps_logits {
            made.logits = None;
        }
        Ok((frame, true))
    }
}

fn encode(logits: &[f32], classes: usize, terms: Terms) -> Result<Bytes, String> {
    let mut soft = vec![0f32; logits.len()];
    retort_codec::soften(logits, classes, terms.temperature(), &mut soft);
    retort_codec::check(&soft, classes).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    retort_codec::encode(&soft, classes, terms.temperature(), terms.encoding, &mut bytes);
    Ok(bytes.into())
}

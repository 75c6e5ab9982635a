//! Language modelling: windows of a text are samples, and what follows each token is its target.

use std::borrow::Cow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::encoder::Encoder;
use super::rows::quoted;
use super::tokens::{PADDING, Tokens, id};
use super::{Error, TextConfig};
use crate::quarantine::Intake;
use crate::split::{NO_TARGET, Samples, Set};
use crate::store::{Form, Writer};

/// Of one file, the last part is for testing: one in so many bytes.
const TEST_SHARE: usize = 5;
/// Windows that overlap and follow each other in the text come into the same part, training or validation, by so many, since
/// they have most of their tokens in common.
const PAGE: u32 = 256;
/// The name of what stands between documents, among the classes.
const END: &str = "end";

/// The `[dataset.text.next]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Next {
    /// How many positions of a window have a target, the last ones. Unset: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<u32>,
    /// Tokens from a window to the next. Unset: as many as have targets, so that each token of the text is one once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<u32>,
    /// Where a text is cut into documents. They are packed into windows one behind another, and none is seen from another.
    /// Unset: a file is one document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<Documents>,
    /// Of a tokenizer: the token that stands between documents, by its name. Unset: its special token of a usual name
    /// (`<|endoftext|>`, `<|end_of_text|>`, `</s>`, `<eos>`, `[SEP]`), or else an id of its own behind the vocabulary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub border: Option<String>,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Documents {
    /// A line that is not blank, without its end.
    Lines,
    /// Lines between blank ones.
    Paragraphs,
}

impl Next {
    /// Positions of a window of this length that have a target.
    fn targets(&self, length: u32) -> u32 {
        self.targets.unwrap_or(length)
    }

    /// Key, value, what is expected.
    pub(super) fn problems(&self, length: u32, tokens: &Tokens) -> Vec<(&'static str, String, String)> {
        let mut problems = Vec::new();
        if let Some(border) = &self.border
            && !matches!(tokens, Tokens::Tokenizer { .. })
        {
            let expected =
                "absent: only a tokenizer's token has a name, between texts of bytes stands byte 0";
            problems.push(("border", format!("{border:?}"), expected.to_owned()));
        }
        let targets = self.targets(length);
        if !(1..=length.max(1)).contains(&targets) {
            let expected = format!("1..={length}, the positions of a window (text.length)");
            problems.push(("targets", targets.to_string(), expected));
        }
        if self.stride == Some(0) {
            problems.push(("stride", "0".to_owned(), "at least 1 token".to_owned()));
        }
        problems
    }
}

/// Reads `train.txt` and `test.txt` of a folder, or one file whose end becomes the test. Classes are the bytes that the text
/// has, in ascending order, before them the border where there are documents; or all tokens of a tokenizer.
pub(super) fn load(
    config: &TextConfig,
    next: &Next,
    (path, encoder): (&Path, &Encoder),
    intake: &Intake,
) -> Result<Set, Error> {
    let read = |file: &Path| {
        std::fs::read(file).map_err(|source| Error::Read {
            file: file.to_owned(),
            source,
        })
    };
    let files = match path.is_dir() {
        true => ["train.txt", "test.txt"].map(|name| path.join(name)),
        false => [path, path].map(Path::to_owned),
    };
    let reader = Reader {
        documents: next.documents,
        encoder,
    };
    let mut train = read(&files[0])?;
    let (test, first_line) = match path.is_dir() {
        true => (read(&files[1])?, 1),
        false => {
            let test = train.split_off(reader.cut(&train));
            (test, 1 + lines(&train))
        }
    };
    let train = reader.read((&files[0], 1), &train, Stream::default())?;
    let test = reader.read((&files[1], first_line), &test, Stream::to_measure_on())?;
    let targets = next.targets(config.length);
    let stride = next.stride.unwrap_or(targets);
    let (classes, class_names) = reader.classes(&train, &test);
    let mut windows = Windows {
        length: config.length as usize,
        targets: targets as usize,
        stride: stride as usize,
        classes: &classes,
        store: Writer::new(Form::Tokens, config.length as usize, intake.memory),
    };
    let (mut pool, mut held_out) = (windows.samples(&train), windows.samples(&test));
    pool.bytes.clear();
    if test.is_whole == Some(false) {
        held_out.bytes.clear();
    }
    for (file, samples) in files.into_iter().zip([&pool, &held_out]) {
        let (samples, length) = (samples.labels.len() / targets as usize, config.length);
        if samples == 0 || samples > u32::MAX as usize / 2 {
            return Err(Error::Length {
                file,
                samples,
                length,
            });
        }
    }
    let overlap = stride < config.length;
    Ok(Set {
        shape: config.shape(),
        class_names,
        store: windows.store.finish()?,
        files: (0..pool.len())
            .filter(|_| overlap)
            .map(|sample| sample / PAGE)
            .collect(),
        unlabelled: Samples::default(),
        pool,
        test: held_out,
    })
}

fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// A part of a text that no other is seen from.
struct Document<'a> {
    /// Where it begins, counted from 0.
    line: u64,
    text: Cow<'a, [u8]>,
}

/// The documents of a text: lines, or lines between blank ones with a line end between them; all of it where nothing says
/// how it is cut.
fn documents(text: &[u8], cut: Option<Documents>) -> Vec<Document<'_>> {
    let Some(cut) = cut else {
        let text = Cow::Borrowed(text);
        return vec![Document { line: 0, text }];
    };
    let lines = text.split(|&byte| byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut out: Vec<Document<'_>> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (0..).zip(lines) {
        let blank = line.iter().all(u8::is_ascii_whitespace);
        match out.last_mut() {
            Some(document) if goes_on && !blank => {
                let text = document.text.to_mut();
                text.push(b'\n');
                text.extend_from_slice(line);
            }
            _ if !blank => out.push(Document {
                line: number,
                text: Cow::Borrowed(line),
            }),
            _ => {}
        }
        goes_on = !blank && cut == Documents::Paragraphs;
    }
    out
}

/// A text as ids, one behind another: documents, a border before each and one behind the last.
#[derive(Default)]
struct Stream {
    ids: Vec<u16>,
    /// Bytes of text that each stands for, a border for one; empty where each stands for one.
    bytes: Vec<u32>,
    /// Whether the tokens are all of the text, so that its bytes may be counted by them; `None` where nobody asks.
    is_whole: Option<bool>,
}

impl Stream {
    fn to_measure_on() -> Self {
        Self {
            is_whole: Some(true),
            ..Self::default()
        }
    }
}

/// What makes ids of a text.
struct Reader<'a> {
    documents: Option<Documents>,
    encoder: &'a Encoder,
}

impl Reader<'_> {
    /// Where the test begins of a text that is one file; of a tokenizer, not within a character.
    fn cut(&self, text: &[u8]) -> usize {
        let cut = text.len() - text.len() / TEST_SHARE;
        let within = |byte: &&u8| self.encoder.tokenizer().is_some() && **byte & 0b1100_0000 == 0b1000_0000;
        cut + text[cut..].iter().take_while(within).count()
    }

    /// What stands between documents, where there are some.
    fn border(&self) -> Option<u16> {
        self.documents.and_then(|_| self.encoder.tokens().border())
    }

    /// Fills a stream; `file` and `first_line` are where the text begins.
    fn read(&self, (file, first_line): (&Path, u64), text: &[u8], mut out: Stream) -> Result<Stream, Error> {
        let border = |out: &mut Stream| {
            out.ids.extend(self.border());
            if self.encoder.tokenizer().is_some() {
                out.bytes.extend(self.border().map(|_| 1));
            }
        };
        border(&mut out);
        for document in documents(text, self.documents) {
            self.append(&document, &mut out).map_err(|wrong| Error::Line {
                file: file.to_owned(),
                line: first_line + document.line + lines(&document.text[..wrong.at]),
                column: wrong.what.to_owned(),
                value: wrong.value,
                expected: wrong.expected,
            })?;
            border(&mut out);
        }
        Ok(out)
    }

    fn append(&self, document: &Document<'_>, out: &mut Stream) -> Result<(), Wrong> {
        let border = self.border();
        let Some(tokenizer) = self.encoder.tokenizer() else {
            let border = document.text.iter().position(|byte| Some(id(byte)) == border);
            if let Some(at) = border {
                let expected = "a text without byte 0, which text.next.documents puts between documents";
                return Err(Wrong::new(at, "byte", document.text[at].to_string(), expected));
            }
            out.ids.extend(document.text.iter().map(id));
            return Ok(());
        };
        let text = std::str::from_utf8(&document.text).map_err(|error| {
            let at = error.valid_up_to();
            let expected = "UTF-8, which a tokenizer takes";
            Wrong::new(at, "byte", format!("{:#04x}", document.text[at]), expected)
        })?;
        let whole = tokenizer.whole(text).map_err(|reason| {
            let expected = format!("a text of tokens that are known: {reason}");
            Wrong::new(0, "text", quoted(text), expected)
        })?;
        let special = |id: &u16| *id == PADDING || Some(*id) == border;
        if let Some(place) = whole.ids.iter().position(special) {
            let from = place.checked_sub(1).map_or(0, |before| whole.ends[before]);
            let expected = match whole.ids[place] {
                PADDING => "a text without the token that the tokenizer fills up with",
                _ => "a text without the token that stands between documents (text.next.border)",
            };
            let token = quoted(&text[from..whole.ends[place]]);
            return Err(Wrong::new(from, "token", token, expected));
        }
        if out.is_whole == Some(true) {
            out.is_whole = Some(tokenizer.gives_back(text, &whole.ids));
        }
        let mut from = 0;
        for (id, end) in whole.ids.into_iter().zip(whole.ends) {
            out.ids.push(id);
            out.bytes.push(u32::try_from(end - from).unwrap_or(u32::MAX));
            from = end;
        }
        Ok(())
    }

    /// The class of each id, and the names of all.
    fn classes(&self, train: &Stream, test: &Stream) -> (Vec<u32>, Vec<String>) {
        let vocabulary = self.encoder.tokens().vocabulary();
        let border = self.border();
        let mut there = vec![self.encoder.tokenizer().is_some(); vocabulary];
        there[usize::from(PADDING)] = false;
        for &id in train.ids.iter().chain(&test.ids) {
            there[usize::from(id)] = true;
        }
        let (mut classes, mut names) = (vec![0; vocabulary], Vec::new());
        for id in (0..=u16::MAX)
            .take(vocabulary)
            .filter(|id| there[usize::from(*id)])
        {
            classes[usize::from(id)] = names.len() as u32;
            names.push(match self.encoder.tokenizer() {
                _ if Some(id) == border => END.to_owned(),
                Some(tokenizer) => tokenizer.name(id).unwrap_or_else(|| format!("id {id}")),
                None => name_of_byte((id - 1) as u8),
            });
        }
        (classes, names)
    }
}

fn name_of_byte(byte: u8) -> String {
    match byte {
        b' ' => "space".to_owned(),
        _ if byte.is_ascii() => byte.escape_ascii().to_string(),
        _ => format!("byte {byte:02x}"),
    }
}

/// What is wrong with a document, and where in it.
struct Wrong {
    at: usize,
    what: &'static str,
    value: String,
    expected: String,
}

impl Wrong {
    fn new(at: usize, what: &'static str, value: String, expected: impl Into<String>) -> Self {
        let expected = expected.into();
        Self {
            at,
            what,
            value,
            expected,
        }
    }
}

/// What makes samples of a text.
struct Windows<'a> {
    length: usize,
    /// The last positions of a window, which have one.
    targets: usize,
    stride: usize,
    /// By id.
    classes: &'a [u32],
    store: Writer,
}

impl Windows<'_> {
    /// Every `stride` tokens a window that has a target; the target of a position is the token behind it. The last window may
    /// reach beyond the text: padding follows.
    fn samples(&mut self, text: &Stream) -> Samples {
        let first = self.length - self.targets;
        let starts = (0..text.ids.len().saturating_sub(first + 1)).step_by(self.stride);
        let mut samples = Samples::default();
        let mut ids = Vec::with_capacity(self.length);
        for start in starts {
            let rest = &text.ids[start..];
            // The last token is a target only.
            let shown = (rest.len() - 1).min(self.length);
            ids.clear();
            ids.extend_from_slice(&rest[..shown]);
            ids.resize(self.length, PADDING);
            let labels = (first..self.length).map(|position| match rest.get(position + 1) {
                Some(&id) => self.classes[usize::from(id)],
                None => NO_TARGET,
            });
            samples.push_all(self.store.push_tokens(&ids), labels);
            let targets = start + first + 1..start + shown + 1;
            let bytes = match text.bytes.get(targets.clone()) {
                Some(bytes) => bytes.iter().sum(),
                None => targets.len() as u32,
            };
            samples.bytes.push(bytes);
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a text: samples, and the ids of their windows one after the other.
    fn windows(text: &[u8], targets: usize, stride: usize) -> (Samples, Vec<u16>) {
        let text = Stream {
            ids: text.iter().map(id).collect(),
            ..Stream::default()
        };
        windows_of(&text, targets, stride)
    }

    fn windows_of(text: &Stream, targets: usize, stride: usize) -> (Samples, Vec<u16>) {
        const LENGTH: usize = 4;
        let mut classes = [0; 257];
        for (class, byte) in (0..).zip(b"abcdef") {
            classes[usize::from(id(byte))] = class;
        }
        let mut windows = Windows {
            length: LENGTH,
            targets,
            stride,
            classes: &classes,
            store: Writer::new(Form::Tokens, LENGTH, u64::MAX),
        };
        let samples = windows.samples(text);
        let store = windows.store.finish().unwrap();
        let mut ids = Vec::new();
        for &row in &samples.rows {
            let mut window = [0.0; LENGTH];
            store.read(row, &mut window);
            ids.extend(window.map(|id| id as u16));
        }
        (samples, ids)
    }

    #[test]
    fn every_byte_but_the_first_is_the_target_of_the_one_before_it() {
        let (samples, ids) = windows(b"abcdefabc", 4, 4);
        let id = |byte: u8| u16::from(byte) + 1;
        assert_eq!((samples.len(), samples.targets_each()), (2, 4));
        assert_eq!(ids, b"abcdefab".map(id));
        assert_eq!(samples.labels, [1, 2, 3, 4, 5, 0, 1, 2]);
        assert_eq!(samples.bytes, [4, 4]);
    }

    #[test]
    fn behind_the_end_is_padding_without_a_target() {
        let (samples, ids) = windows(b"abcdefa", 4, 4);
        assert_eq!((samples.len(), samples.targets_each()), (2, 4));
        let id = |byte: u8| u16::from(byte) + 1;
        assert_eq!(ids[4..], [id(b'e'), id(b'f'), PADDING, PADDING]);
        assert_eq!(samples.labels[4..], [5, 0, NO_TARGET, NO_TARGET]);
        assert_eq!(samples.labelled(), 2);
        assert_eq!(samples.bytes, [4, 2], "as many targets");
        let targets: Vec<(usize, u32)> = samples.targets(1).collect();
        assert_eq!(targets, [(0, 5), (1, 0)]);
        assert_eq!(windows(b"abcde", 4, 4).0.len(), 1, "no window without a target");
        assert_eq!(windows(b"a", 4, 4).0.len(), 0);
    }

    #[test]
    fn one_target_is_what_follows_the_window() {
        let (samples, ids) = windows(b"abcdefab", 1, 3);
        assert_eq!((samples.len(), samples.targets_each()), (2, 1));
        assert_eq!(samples.labels, [4, 1]);
        let id = |byte: u8| u16::from(byte) + 1;
        assert_eq!(ids, b"abcddefa".map(id));
    }

    #[test]
    fn targets_stand_for_the_bytes_of_their_tokens() {
        let text = Stream {
            ids: b"abcdefa".iter().map(id).collect(),
            bytes: vec![100, 1, 2, 3, 4, 5, 6],
            is_whole: None,
        };
        assert_eq!(windows_of(&text, 4, 4).0.bytes, [10, 11]);
        assert_eq!(windows_of(&text, 1, 1).0.bytes, [4, 5, 6]);
    }

    #[test]
    fn documents_stand_between_borders() {
        let encoder = Tokens::Bytes {}.open(4).unwrap();
        let packed = |text: &[u8], cut| {
            let documents = Some(cut);
            let reader = Reader {
                documents,
                encoder: &encoder,
            };
            let read = reader.read((Path::new("a.txt"), 1), text, Stream::default());
            let bytes = read.unwrap().ids.into_iter().map(|id| (id - 1) as u8);
            bytes.collect::<Vec<u8>>()
        };
        let text = b"\n one\ntwo \r\n \n\n three\n";
        assert_eq!(packed(text, Documents::Lines), b"\0 one\0two \0 three\0");
        assert_eq!(packed(text, Documents::Paragraphs), b"\0 one\ntwo \0 three\0");
        assert_eq!(packed(b"\n", Documents::Lines), b"\0");
        let lines: Vec<u64> = documents(text, Some(Documents::Lines))
            .iter()
            .map(|d| d.line)
            .collect();
        assert_eq!(lines, [1, 2, 5]);
    }
}

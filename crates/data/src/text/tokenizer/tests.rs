use std::error::Error;
use std::path::Path;

use tempfile::TempDir;

use crate::Tokens;

/// Written as BERT's: `[CLS]` and `[SEP]` around pieces of words, lower case.
const WORD_PIECE: &str = r###"{
    "version": "1.0", "truncation": null,
    "padding": { "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]" },
    "added_tokens": [
        { "id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true },
        { "id": 2, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true }],
    "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
        "lowercase": true },
    "pre_tokenizer": { "type": "BertPreTokenizer" },
    "post_processor": { "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "[CLS]", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
            { "SpecialToken": { "id": "[SEP]", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
            "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] } } },
    "decoder": null,
    "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": { "[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "play": 4, "##ing": 5, "the": 6, "!": 7 } } }"###;

fn write(folder: &TempDir, content: &str) -> Tokens {
    std::fs::write(folder.path().join("words.json"), content).unwrap();
    let tokens = Tokens::Tokenizer {
        path: "words.json".into(),
        blake3: None,
        ids: None,
        border: None,
    };
    tokens.below(folder.path())
}

/// An error and what is behind it.
fn chain(error: &dyn Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

fn refused(tokens: &Tokens, length: usize) -> String {
    chain(&tokens.open(length).unwrap_err())
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let tokens = Tokens::Tokenizer {
        path: "words.json".into(),
        blake3: None,
        ids: None,
        border: None,
    };
    let message = refused(&tokens.below(Path::new("nowhere")), 4);
    assert!(message.starts_with("read nowhere/words.json: "), "{message}");
}

#[cfg(not(feature = "tokenizers"))]
#[test]
fn a_build_without_the_feature_says_what_to_build() {
    let folder = TempDir::new().unwrap();
    let message = refused(&write(&folder, WORD_PIECE), 8);
    assert!(
        message.contains("words.json") && message.contains("--features tokenizers"),
        "{message}"
    );
}

#[cfg(feature = "tokenizers")]
mod with_the_feature {
    use super::*;
    use crate::{DatasetConfig, Format, Part, TextConfig};

    fn ids(tokens: &Tokens, text: &str, length: usize) -> Vec<f32> {
        tokens.open(length).unwrap().encode(text).unwrap()
    }

    #[test]
    fn special_tokens_stay_and_padding_is_id_0() {
        let folder = TempDir::new().unwrap();
        let tokens = write(&folder, WORD_PIECE);
        for (text, expected) in [
            ("The playing zebra!", vec![2, 6, 4, 5, 1, 7, 3, 0]),
            ("the the the the the the the", vec![2, 6, 6, 6, 6, 6, 6, 3]),
            ("", vec![2, 3, 0, 0, 0, 0, 0, 0]),
            // Who writes it means it, and no model sees it.
            ("play [PAD] play", vec![2, 4, 0, 4, 3, 0, 0, 0]),
        ] {
            let expected: Vec<f32> = expected.into_iter().map(|id: u8| id.into()).collect();
            assert_eq!(ids(&tokens, text, 8), expected, "{text}");
        }
        assert_eq!(ids(&tokens, "the playing", 4), [2.0, 6.0, 4.0, 3.0]);
        assert_eq!(ids(&tokens, "the", 3), [2.0, 6.0, 3.0]);
        let encoder = tokens.open(8).unwrap();
        assert_eq!((encoder.tokens().vocabulary(), encoder.shift()), (8, 0));
    }

    /// `{}` stands for more of the file.
    const WORDS: &str = r#"{ "version": "1.0", "truncation": null, {}, "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "unk_token": "?", "vocab": { "a": 0, "b": 1, "end": 2 } } }"#;

    #[test]
    fn a_tokenizer_whose_id_0_is_a_word_is_moved_up() {
        let folder = TempDir::new().unwrap();
        let none = r#""padding": null, "added_tokens": []"#;
        let tokens = write(&folder, &WORDS.replace("{}", none));
        assert_eq!(ids(&tokens, "a b end", 4), [1.0, 2.0, 3.0, 0.0]);
        let encoder = tokens.open(1).unwrap();
        assert_eq!((encoder.tokens().vocabulary(), encoder.shift()), (4, 1));
        let error = tokens.open(4).unwrap().encode("a c").unwrap_err().to_string();
        assert!(
            error.starts_with("the tokenizer has no tokens for it: "),
            "{error}"
        );

        let end = r#""added_tokens": [], "padding": { "strategy": "BatchLongest", "direction": "Left",
            "pad_to_multiple_of": null, "pad_id": 2, "pad_type_id": 0, "pad_token": "end" }"#;
        let tokens = write(&folder, &WORDS.replace("{}", end));
        assert_eq!(ids(&tokens, "a end b", 4), [1.0, 0.0, 2.0, 0.0]);
    }

    /// Of texts of a few letters. `{}` stands for added tokens.
    const PAIRS: &str = r#"{ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [{}], "normalizer": null,
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
            "post_processor": null, "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": { "t": 0, "o": 1, "Ġ": 2, "'": 3, "Ġt": 4, "Ġto": 5, "'t": 6, "Ã": 7, "©": 8 },
            "merges": [["Ġ", "t"], ["Ġt", "o"], ["'", "t"]] } }"#;

    #[test]
    fn bytes_in_pairs_need_regular_expressions() {
        let folder = TempDir::new().unwrap();
        let tokens = write(&folder, &PAIRS.replace("[{}]", "[]"));
        // The contraction is cut off before pairs are looked for, the space goes with what follows.
        assert_eq!(ids(&tokens, "to to't", 6), [1.0, 2.0, 6.0, 7.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_not_the_tokenizer_that_was_meant_is_refused() {
        let folder = TempDir::new().unwrap();
        let tokens = write(&folder, WORD_PIECE);
        let pinned = |blake3: Option<&str>, ids| {
            let path = folder.path().join("words.json").display().to_string();
            let blake3 = blake3.map(str::to_owned);
            let border = None;
            Tokens::Tokenizer {
                path,
                blake3,
                ids,
                border,
            }
        };
        let own = blake3::hash(WORD_PIECE.as_bytes()).to_hex().to_string();
        let opened = pinned(Some(&own), Some(8)).open(8).unwrap();
        let card = Tokens::Tokenizer {
            path: "tokenizer.json".into(),
            blake3: Some(own),
            ids: Some(8),
            border: None,
        };
        assert_eq!(opened.tokens(), &card);
        for (tokens, length, expected) in [
            (
                &tokens,
                2,
                "words.json: length is 2, expected at least 3: it adds 2 special tokens",
            ),
            (
                &pinned(Some("00"), None),
                8,
                "expected 00, another tokenizer's file",
            ),
            (
                &pinned(None, Some(9)),
                8,
                "words.json: ids is 8, expected 9, padding included",
            ),
        ] {
            let message = refused(tokens, length);
            assert!(message.contains(expected), "{message}");
        }
        let large = WORD_PIECE.replace("\"!\": 7", "\"!\": 65536");
        let message = refused(&write(&folder, &large), 8);
        let expected = "its greatest id is 65536, expected at most 65535, ids have 16 bits";
        assert!(message.contains(expected), "{message}");
        for content in ["", "{}", "[1]", "\u{0}"] {
            let message = refused(&write(&folder, content), 8);
            assert!(message.contains("words.json is no tokenizer: "), "{message}");
        }
    }

    #[test]
    fn a_data_set_knows_its_tokenizer() {
        let folder = TempDir::new().unwrap();
        let tokens = write(&folder, WORD_PIECE);
        let lines = "{\"text\":\"play\",\"label\":\"a\"}\n{\"text\":\"the\",\"label\":\"b\"}\n";
        std::fs::write(folder.path().join("train.jsonl"), lines).unwrap();
        std::fs::write(folder.path().join("test.jsonl"), lines).unwrap();
        let config = DatasetConfig {
            format: Some(Format::Text),
            path: Some(".".into()),
            validation: Some(0),
            text: Some(TextConfig {
                tokens: Tokens::Tokenizer {
                    path: "words.json".into(),
                    blake3: None,
                    ids: None,
                    border: None,
                },
                length: 4,
                ..TextConfig::default()
            }),
            ..DatasetConfig::default()
        };
        let set = crate::load(&config, folder.path(), 1).unwrap();
        assert_eq!(set.tokenizer(), Some(WORD_PIECE.as_bytes()));
        assert_eq!(set.tokens(), Some(tokens.open(4).unwrap().tokens()));
        assert_eq!(set.vocabulary(), Some(8));
        let mut sample = [0.0; 4];
        set.split(Part::Test).write(1, &mut sample);
        assert_eq!(sample, [2.0, 6.0, 3.0, 0.0]);

        let mut other = config.clone();
        other.text.as_mut().unwrap().length = 2;
        let message = chain(&crate::load(&other, folder.path(), 1).unwrap_err());
        assert!(
            message.starts_with("text.tokens: ") && message.contains("length is 2"),
            "{message}"
        );
    }

    /// The data set of a language model on `train.txt` and `test.txt` of a folder.
    fn next(folder: &TempDir, border: Option<&str>, length: u32) -> Result<crate::Dataset, crate::Error> {
        let tokens = Tokens::Tokenizer {
            path: "words.json".into(),
            blake3: None,
            ids: None,
            border: None,
        };
        let text = TextConfig {
            tokens,
            length,
            next: Some(crate::Next {
                documents: Some(crate::Documents::Lines),
                border: border.map(str::to_owned),
                ..crate::Next::default()
            }),
            ..TextConfig::default()
        };
        let config = DatasetConfig {
            format: Some(Format::Text),
            path: Some(".".into()),
            validation: Some(0),
            text: Some(text),
            ..DatasetConfig::default()
        };
        crate::load(&config, folder.path(), 1)
    }

    fn texts(folder: &TempDir, train: &[u8], test: &[u8]) {
        std::fs::write(folder.path().join("train.txt"), train).unwrap();
        std::fs::write(folder.path().join("test.txt"), test).unwrap();
    }

    fn sample(set: &crate::Dataset, sample: u32) -> (Vec<f32>, Vec<(usize, u32)>) {
        let mut ids = vec![0.0; set.shape().len()];
        let test = set.split(Part::Test);
        test.write(sample, &mut ids);
        (ids, test.targets(sample).collect())
    }

    #[test]
    fn a_language_model_tells_tokens_and_their_bytes_are_known() {
        let folder = TempDir::new().unwrap();
        write(&folder, &PAIRS.replace("[{}]", "[]"));
        let text = "to to\n\nto'té\n";
        texts(&folder, text.as_bytes(), text.as_bytes());
        let set = next(&folder, None, 4).unwrap();
        // Moved up by one, since 0 is a word; 10 stands between documents.
        let names = ["t", "o", "Ġ", "'", "Ġt", "Ġto", "'t", "Ã", "©", "end"];
        assert_eq!(set.class_names(), names);
        assert_eq!(
            (set.vocabulary(), set.rows(), set.tells_next()),
            (Some(11), 4, true)
        );
        assert_eq!(set.split(Part::Test).len(), 3);
        let ids = vec![10.0, 1.0, 2.0, 6.0];
        assert_eq!(sample(&set, 0), (ids, vec![(0, 0), (1, 1), (2, 5), (3, 9)]));
        let ids = vec![10.0, 1.0, 2.0, 7.0];
        assert_eq!(sample(&set, 1), (ids, vec![(0, 0), (1, 1), (2, 6), (3, 7)]));
        let ids = vec![8.0, 9.0, 0.0, 0.0];
        assert_eq!(sample(&set, 2), (ids, vec![(0, 8), (1, 9)]));
        // "to to", "to'té" and what ends them.
        assert_eq!(set.split(Part::Test).text_bytes(), Some(5 + 1 + 6 + 1));
        assert_eq!(set.split(Part::Train).text_bytes(), None);

        let card = set.tokens().unwrap().clone();
        let Tokens::Tokenizer { ids, border, .. } = &card else {
            panic!("{card:?}");
        };
        assert_eq!((*ids, *border, card.border()), (Some(11), Some(10), Some(10)));
        std::fs::write(folder.path().join("tokenizer.json"), set.tokenizer().unwrap()).unwrap();
        let again = card.clone().below(folder.path());
        let ending = |length| again.open(length).unwrap().ending("to to").unwrap();
        assert_eq!(ending(4), [1.0, 2.0, 6.0, 0.0]);
        assert_eq!(ending(2), [2.0, 6.0]);
        assert_eq!(again.open(2).unwrap().tokens(), &card);
        for (border, expected) in [(11, "border is 11, expected 1..=10"), (0, "border is 0")] {
            let mut other = again.clone();
            let Tokens::Tokenizer { border: at, .. } = &mut other else {
                panic!("{other:?}");
            };
            *at = Some(border);
            let message = refused(&other, 2);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_special_token_stands_between_documents_and_is_text_within_them() {
        let folder = TempDir::new().unwrap();
        let separator = r#""added_tokens": [{ "id": 3, "content": "[SEP]", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true },"#;
        write(&folder, &WORD_PIECE.replace(r#""added_tokens": ["#, separator));
        texts(&folder, b"play\n", b"the [PAD] zebra\nplaying\n");
        let named = next(&folder, Some("[CLS]"), 9).unwrap();
        let set = next(&folder, None, 9).unwrap();
        let ids = |between: f32| vec![between, 6.0, 1.0, 1.0, 1.0, 1.0, between, 4.0, 5.0];
        assert_eq!(sample(&set, 0).0, ids(3.0));
        assert_eq!(sample(&named, 0).0, ids(2.0));
        assert_eq!(
            set.class_names(),
            ["[UNK]", "[CLS]", "end", "play", "##ing", "the", "!"]
        );
        // Words that it does not know are not told.
        assert_eq!(set.split(Part::Test).text_bytes(), None);

        write(&folder, &PAIRS.replace("{}", END_OF_TEXT));
        texts(&folder, b"to to\n", b"to to\n");
        let set = next(&folder, None, 3).unwrap();
        assert_eq!((set.vocabulary(), sample(&set, 0).0[0]), (Some(11), 10.0));
        assert_eq!(set.class_names().last().map(String::as_str), Some("end"));
        assert_eq!(set.split(Part::Test).text_bytes(), Some(6));
    }

    const END_OF_TEXT: &str = r#"{ "id": 9, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true }"#;

    #[test]
    fn a_text_or_border_that_the_tokenizer_has_no_ids_for_is_refused() {
        let folder = TempDir::new().unwrap();
        let message = |border, words: &str, test: &[u8]| {
            write(&folder, words);
            texts(&folder, b"a b\n", test);
            chain(&next(&folder, border, 4).unwrap_err())
        };
        let none = WORDS.replace("{}", r#""padding": null, "added_tokens": []"#);
        let padding = WORDS.replace(
            "{}",
            r#""added_tokens": [], "padding": { "strategy": "BatchLongest", "direction": "Left",
            "pad_to_multiple_of": null, "pad_id": 2, "pad_type_id": 0, "pad_token": "end" }"#,
        );
        for (border, words, test, expected) in [
            (
                Some("</s>"),
                &none,
                &b"a\n"[..],
                "words.json: text.next.border is \"</s>\", expected a token of its vocabulary",
            ),
            (
                Some("end"),
                &padding,
                b"a\n",
                "text.next.border is \"end\", expected a token of its vocabulary, and not that of padding",
            ),
            (
                None,
                &none,
                b"a\nb\n\nc d\n",
                "test.txt line 4: text = \"c d\": expected a text of tokens that are known: ",
            ),
            (
                Some("end"),
                &none,
                b"a\na end b\n",
                "test.txt line 2: token = \" end\": expected a text without the token that stands between documents",
            ),
            (
                None,
                &padding,
                b"a end b\n",
                "test.txt line 1: token = \" end\": expected a text without the token that the tokenizer fills up with",
            ),
            (
                None,
                &none,
                b"a\nb \xff\n",
                "test.txt line 2: byte = 0xff: expected UTF-8",
            ),
        ] {
            let message = message(border, words, test);
            assert!(message.contains(expected), "{message}\n{expected}");
        }
        let last = none.replace("\"end\": 2", "\"end\": 65534");
        let message = message(None, &last, b"a\n");
        let expected = "its number of ids is 65536, expected at most 65535, so that one is left";
        assert!(message.contains(expected), "{message}");
    }
}

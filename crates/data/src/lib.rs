//! Data sets, their splits and views, and the order in which training goes through them.
//!
//! Teachers and students read the same data set on different machines and name samples instead of shipping them. That
//! works because everything here is a function of its arguments: the same configuration gives the same
//! [`Dataset::digest`], the same [`order::Order`] and, from one view seed, bit for bit the same view
//! ([`Dataset::view`]) on every machine. Random numbers come from [`rng`], which uses no platform mathematics.
//!
//! * [`DatasetConfig`] is the `[dataset]` part of a job; [`load`] turns it into a [`Dataset`].
//! * [`order`] maps the positions of an epoch to samples without a table and cuts them into blocks.
//! * [`schedule`] has values that change along that order.
//! * [`ranges`] holds exact sets of positions: what is leased, acknowledged, merged or durable.
//!
//! It reads local files and nothing else ([`Location`] tells what lies elsewhere, for someone else to fetch), and must
//! never depend on an async runtime, a network stack or a tensor library: the pure cores and the tests build on it.

mod classes;
mod config;
pub mod custom;
mod dataset;
mod digits;
mod folder;
mod held_out;
mod idx;
mod images;
mod location;
mod mnist1d;
pub mod order;
mod parquet;
mod quarantine;
pub mod ranges;
pub mod rng;
pub mod schedule;
mod split;
mod store;
mod text;
mod view;
mod wav;

pub use crate::parquet::Error as ParquetError;
pub use config::{ConfigProblem, DatasetConfig, Format, Views};
pub use custom::Custom;
pub use dataset::{Dataset, Error, MixedIn, Part, Shape, load};
pub use folder::Error as FolderError;
pub use held_out::{HeldOut, SplitRef};
pub use idx::{Error as IdxError, FASHION_MNIST_FOLDER};
pub use images::{Error as ImagesError, Images, read_image};
pub use location::Location;
pub use quarantine::{BadRow, BadRows, Place, TooMany};
pub use store::{Error as StoreError, Size};
pub use text::{
    Documents, EncodeError, Encoder, Error as TextError, Next, TOKENIZER_FILE, TextConfig, TokenizerError,
    Tokens,
};
pub use wav::{Audio, Error as WavError, Windows};

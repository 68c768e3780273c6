//! Training and evaluation data: rows of one text or a pair of texts, with a class, several labels or numbers.
//!
//! `file → rows → examples → token ids → batches`. Every step tells what it could not use; a row
//! is either returned, or named with file, line and reason. One seed decides the split, the
//! subset and the order of the rows.
//!
//! ```
//! use autopeft::data::{DataSpec, Format, Source, load};
//! let rows = b"{\"text\": \"fine\", \"label\": \"pos\"}\n{\"text\": \"good\", \"label\": \"pos\"}
//! {\"text\": \"bad\", \"label\": \"neg\"}\n{\"text\": \"poor\", \"label\": \"neg\"}";
//! let spec = DataSpec::new(Source::embedded("demo", Format::JsonLines, rows));
//! let data = load(&DataSpec { validation_share: 0.5, ..spec })?;
//! assert_eq!((data.train.len(), data.validation.len()), (2, 2));
//! assert_eq!(data.labels.names(), ["neg", "pos"]);
//! # Ok::<(), autopeft::data::DataError>(())
//! ```

mod batch;
mod columns;
mod delimited;
mod encode;
mod error;
mod jsonl;
mod labels;
pub mod language;
mod load;
mod order;
mod parquet;
mod rows;
mod source;
mod split;
mod table;
mod target;
#[cfg(test)]
mod tests;

pub use batch::{Batch, Padding, collate, collate_many};
pub use columns::{ColumnNames, Columns, Pairing, Role};
pub use encode::{Encoded, EncodedRow, encode};
pub use error::DataError;
pub(crate) use error::list;
pub use labels::{LabelOrder, LabelValue, Labels};
pub use load::{
    DataSpec, Dataset, Example, Loaded, Validation, class_counts, load, load_labelled,
    load_targets, load_unlabelled,
};
pub use order::{Batching, Cursor, TrainOrder, eval_order, in_row_order};
pub use rows::{BadRow, BadRows, LabelKind};
pub use source::{Format, Source};
pub use target::{Target, Targets, TokenTargets};

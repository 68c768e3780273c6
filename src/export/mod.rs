//! Writing a result: into a temporary folder beside the target, verified, synced, then renamed, so that
//! a folder with the result's name is always whole. A folder that cannot be renamed is filled at the end.

mod adapter;
mod folder;
mod inputs;
mod merged;
mod verify;

pub use adapter::{AdapterFiles, AdapterOptions, write_adapter};
pub use folder::{OutputFolder, TEMPORARY_PREFIX};
pub use inputs::{Input, check_inputs};
pub use merged::{MergedFiles, MergedOptions, SHARD_BYTES, write_merged};
pub use verify::{TOLERANCE, largest_difference};

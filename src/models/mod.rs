//! Model families, and the reader of their checkpoints.

pub mod checkpoint;

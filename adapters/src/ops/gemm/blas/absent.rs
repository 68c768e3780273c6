//! A build without libraries of the system.

use std::mem::MaybeUninit;

use super::super::{Matrix, Target};
use super::{BlasError, Choice};

/// There is none.
#[derive(Debug)]
pub(crate) enum Blas {}

impl Blas {
    pub(crate) fn name(&self) -> String {
        match *self {}
    }

    pub(crate) fn value(&self) -> String {
        match *self {}
    }

    pub(crate) fn has_threads_of_its_own(&self) -> bool {
        match *self {}
    }

    pub(crate) fn product(
        &self,
        _: &mut [MaybeUninit<f32>],
        _: usize,
        _: Target,
        _: f32,
        _: Matrix<'_>,
        _: Matrix<'_>,
    ) -> bool {
        match *self {}
    }
}

pub(crate) fn find(choice: Choice) -> Result<Option<Blas>, BlasError> {
    let asked = match choice {
        Choice::Any | Choice::Nothing => return Ok(None),
        Choice::Named(library) => library.name().to_string(),
        Choice::File(path) => path.display().to_string(),
    };
    Err(BlasError::NotBuilt { asked })
}

pub(crate) fn installed() -> Vec<Blas> {
    Vec::new()
}

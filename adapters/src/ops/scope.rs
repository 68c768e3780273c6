//! A part of a model as one node of candle's graph.
//!
//! Within a [`scope`] the operations of this module note themselves on a list of our own, and the backward
//! pass walks it from the end. candle's own walk makes a tensor of zeros for the gradient of every node and
//! adds to it, two passes over memory that most activations do not need: each is read by one operation
//! only. Here the first gradient of an activation is taken as it is.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use candle_core::{Error, Result, Tensor, TensorId, Var};

use super::function::function2;
use super::rows;

/// Maps the gradient of an output to those of the inputs.
pub(crate) type Vjp = Box<dyn Fn(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync>;

struct Entry {
    /// `None` for an input that is not tracked.
    inputs: Vec<Option<TensorId>>,
    output: TensorId,
    vjp: Vjp,
}

/// The operations of a scope, in the order in which they ran.
#[derive(Default)]
struct Record {
    tracked: HashSet<TensorId>,
    entries: Vec<Entry>,
}

thread_local! {
    static RECORD: RefCell<Option<Record>> = const { RefCell::new(None) };
}

/// Ends the record also when the body fails.
struct Guard;

impl Guard {
    fn finish(self) -> Record {
        RECORD.with_borrow_mut(Option::take).unwrap_or_default()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        RECORD.with_borrow_mut(|record| *record = None);
    }
}

/// Whether a gradient of this tensor is wanted, by candle's graph or by the scope that is open.
pub(crate) fn is_tracked(tensor: &Tensor) -> bool {
    tensor.track_op()
        || RECORD.with_borrow(|record| {
            record
                .as_ref()
                .is_some_and(|record| record.tracked.contains(&tensor.id()))
        })
}

/// Whether a scope is open on this thread.
pub(super) fn is_open() -> bool {
    RECORD.with_borrow(Option::is_some)
}

/// Operations that the scope that is open has noted.
#[cfg(test)]
pub(crate) fn noted() -> usize {
    RECORD.with_borrow(|record| record.as_ref().map_or(0, |record| record.entries.len()))
}

/// Runs `body` as if no scope were open: what it computes is not noted. A tensor without a graph keeps its identity when it
/// is detached, so within a scope that alone would not stop the notes.
pub(crate) fn suspended<T>(body: impl FnOnce() -> T) -> T {
    struct Restore(Option<Record>);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORD.with_borrow_mut(|record| *record = self.0.take());
        }
    }
    let _restore = Restore(RECORD.with_borrow_mut(Option::take));
    body()
}

/// Notes an operation whose output is `output`. Only while a scope is open.
pub(super) fn note(inputs: &[&Tensor], output: &Tensor, vjp: Vjp) {
    RECORD.with_borrow_mut(|record| {
        let Some(record) = record else { return };
        let inputs = inputs
            .iter()
            .map(|input| record.tracked.contains(&input.id()).then(|| input.id()))
            .collect();
        record.tracked.insert(output.id());
        record.entries.push(Entry {
            inputs,
            output: output.id(),
            vjp,
        });
    });
}

/// Runs `body` on `x` and ties its output to `x` as one operation of candle's graph. The body may use the
/// operations of [`crate::ops`] and the layers of [`crate::Adapters`]: candle's own operators cut the
/// gradient here. A scope within a scope is part of the outer one.
///
/// # Errors
/// When the body fails, and when it recorded operations that its output does not depend on.
pub fn scope<E: From<Error>>(
    x: &Tensor,
    body: impl FnOnce(&Tensor) -> std::result::Result<Tensor, E>,
) -> std::result::Result<Tensor, E> {
    if is_open() {
        return body(x);
    }
    let input = x.detach();
    let mut record = Record::default();
    if x.track_op() {
        record.tracked.insert(input.id());
    }
    RECORD.with_borrow_mut(|slot| *slot = Some(record));
    let guard = Guard;
    let output = body(&input)?;
    let record = guard.finish();
    if !record.tracked.contains(&output.id()) {
        if record.entries.is_empty() {
            return Ok(output);
        }
        let message = "the gradient is cut within a scope: use the operations of `ops` there";
        return Err(Error::Msg(message.to_string()).into());
    }
    let anchor = Var::zeros(1, x.dtype(), x.device())?;
    let (first, last) = (input.id(), output.id());
    Ok(function2(
        "scope",
        [x, anchor.as_tensor()],
        output,
        move |gradient| Ok([record.backward(last, first, gradient)?, None]),
    )?)
}

impl Record {
    fn backward(
        &self,
        output: TensorId,
        input: TensorId,
        gradient: &Tensor,
    ) -> Result<Option<Tensor>> {
        let mut pending = HashMap::new();
        add(&mut pending, output, gradient.clone())?;
        for entry in self.entries.iter().rev() {
            let Some(gradient) = pending.remove(&entry.output) else {
                continue;
            };
            let gradients = (entry.vjp)(&gradient.sum)?;
            drop(gradient);
            for (id, gradient) in entry.inputs.iter().zip(gradients) {
                if let (Some(id), Some(gradient)) = (id, gradient) {
                    add(&mut pending, *id, gradient)?;
                }
            }
        }
        Ok(pending.remove(&input).map(|gradient| gradient.sum))
    }
}

/// The gradient of an activation so far.
struct Pending {
    sum: Tensor,
    /// Whether nobody else holds the numbers, so that they may be changed in place.
    owned: bool,
}

fn add(pending: &mut HashMap<TensorId, Pending>, id: TensorId, gradient: Tensor) -> Result<()> {
    match pending.get_mut(&id) {
        None => {
            let first = Pending {
                sum: gradient,
                owned: false,
            };
            pending.insert(id, first);
        }
        Some(before) if before.owned => rows::add_assign(&before.sum, &gradient)?,
        Some(before) => {
            before.owned = rows::is_plain(&before.sum) && rows::is_plain(&gradient);
            before.sum = if before.owned {
                rows::zip_map(&before.sum, &gradient, |a, b| a + b)?
            } else {
                (&before.sum + &gradient)?
            };
        }
    }
    Ok(())
}

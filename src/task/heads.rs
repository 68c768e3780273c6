//! Losses over the outputs of a head, (batch, outputs): one class, numbers, or several labels.

use autopeft_adapters::{Pass, ops};
use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Answer, Hessian, Local, Objective, Outcome};
use crate::data::{Batch, DataError, Targets};
use crate::error::Result;
use crate::metrics;
use crate::models::Model;

impl Objective for Box<dyn Model + '_> {
    fn outcome<'a>(&'a self, batch: &'a Batch, pass: &Pass) -> Result<Box<dyn Outcome + 'a>> {
        let targets = match &batch.targets {
            Some(Targets::Classes(classes)) => Wanted::Classes(classes),
            Some(Targets::Numbers(numbers)) => Wanted::Numbers(numbers),
            Some(Targets::Flags(flags)) => Wanted::Flags(flags),
            Some(Targets::Tokens(_)) | None => return Err(DataError::NoTargets.into()),
        };
        let outputs = self.as_ref().forward(&batch.inputs, pass)?;
        Ok(Box::new(Outputs {
            rows: host_rows(&outputs)?,
            tensor: outputs,
            targets,
        }))
    }

    fn outputs(&self, batch: &Batch) -> Result<Vec<Vec<f64>>> {
        let outputs = self.as_ref().forward(&batch.inputs, &Pass::eval())?;
        Ok(host_rows(&outputs)?)
    }
}

/// What the outputs of a head should have been.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    Classes(&'a [u32]),
    Numbers(&'a [Vec<f64>]),
    Flags(&'a [Vec<bool>]),
}

/// Outputs of a head, with what they should have been.
struct Outputs<'a> {
    tensor: Tensor,
    /// The same on the host, by example.
    rows: Vec<Vec<f64>>,
    targets: Wanted<'a>,
}

/// A (rows, columns) tensor on the host, in f64.
fn host_rows(tensor: &Tensor) -> candle_core::Result<Vec<Vec<f64>>> {
    tensor
        .detach()
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .to_vec2()
}

impl Outputs<'_> {
    /// `∂ℓ_s/∂z_s`.
    fn gradients(&self) -> Vec<Vec<f64>> {
        match self.targets {
            Wanted::Classes(classes) => self
                .rows
                .iter()
                .zip(classes)
                .map(|(row, class)| residual(&metrics::probabilities(row), *class))
                .collect(),
            Wanted::Numbers(numbers) => {
                each(&self.rows, numbers, |z, y, width| 2.0 * (z - y) / width)
            }
            Wanted::Flags(flags) => each(&self.rows, flags, |z, y, width| {
                (metrics::sigmoid(z) - f64::from(u8::from(y))) / width
            }),
        }
    }

    /// `Σ_s v_sᵀ z_s`.
    fn along(&self, vectors: Vec<Vec<f64>>) -> Result<Tensor> {
        let vectors = Tensor::from_vec(vectors.concat(), self.tensor.dims2()?, &Device::Cpu)?
            .to_dtype(self.tensor.dtype())?
            .to_device(self.tensor.device())?;
        Ok((&self.tensor * vectors)?.sum_all()?)
    }
}

impl Outcome for Outputs<'_> {
    fn losses(&self, copies: usize) -> Vec<f64> {
        fn each<T>(
            rows: &[Vec<f64>],
            targets: &[T],
            copies: usize,
            loss: impl Fn(&[Vec<f64>], &[T]) -> f64,
        ) -> Vec<f64> {
            let examples = (rows.len() / copies.max(1)).max(1);
            let copies = rows.chunks(examples).zip(targets.chunks(examples));
            copies.map(|(rows, targets)| loss(rows, targets)).collect()
        }
        match self.targets {
            Wanted::Classes(classes) => each(&self.rows, classes, copies, metrics::class_loss),
            Wanted::Numbers(numbers) => each(&self.rows, numbers, copies, metrics::number_loss),
            Wanted::Flags(flags) => each(&self.rows, flags, copies, metrics::flag_loss),
        }
    }

    fn count(&self) -> f64 {
        self.rows.len() as f64
    }

    fn answers(&self) -> Vec<Answer> {
        self.rows.iter().cloned().map(Answer::Outputs).collect()
    }

    fn scalar(&self) -> Result<Tensor> {
        match self.targets {
            Wanted::Classes(classes) => {
                let labels = Tensor::from_slice(classes, classes.len(), self.tensor.device())?;
                Ok(ops::cross_entropy(&self.tensor, &labels)?)
            }
            Wanted::Numbers(_) | Wanted::Flags(_) => {
                Ok((self.along(self.gradients())? / self.count())?)
            }
        }
    }

    fn exact(&self, most: usize) -> Result<Option<Local>> {
        let outputs = self.tensor.dim(1)?;
        if outputs > most {
            return Ok(None);
        }
        let column = |output: usize| self.tensor.narrow(1, output, 1);
        let mut gradients = self.gradients();
        Ok(Some(match self.targets {
            // The same number added to all logits changes nothing: differences to the first are enough.
            Wanted::Classes(_) => {
                let first = column(0)?;
                let scalars = (1..outputs)
                    .map(|class| (column(class)? - &first)?.sum_all())
                    .collect::<candle_core::Result<_>>()?;
                let others = |row: &[f64]| row.iter().skip(1).copied().collect::<Vec<f64>>();
                Local {
                    scalars,
                    gradients: gradients.iter().map(|row| others(row)).collect(),
                    hessians: (self.rows.iter())
                        .map(|row| Hessian::Softmax(others(&metrics::probabilities(row))))
                        .collect(),
                }
            }
            Wanted::Numbers(_) | Wanted::Flags(_) => Local {
                scalars: (0..outputs)
                    .map(|output| column(output)?.sum_all())
                    .collect::<candle_core::Result<_>>()?,
                gradients: std::mem::take(&mut gradients),
                hessians: (self.rows.iter())
                    .map(|row| Hessian::Diagonal(curvatures(row, self.targets)))
                    .collect(),
            },
        }))
    }

    fn drawn(&self, random: &mut ChaCha8Rng) -> Result<Tensor> {
        let vectors = (self.rows.iter())
            .map(|row| match self.targets {
                Wanted::Classes(_) => {
                    let p = metrics::probabilities(row);
                    let class = metrics::draw(&p, random.random());
                    residual(&p, class)
                }
                // A random sign for each output has the unit matrix as its mean outer product.
                Wanted::Numbers(_) | Wanted::Flags(_) => curvatures(row, self.targets)
                    .into_iter()
                    .map(|h| {
                        if random.random::<bool>() {
                            h.sqrt()
                        } else {
                            -h.sqrt()
                        }
                    })
                    .collect(),
            })
            .collect();
        self.along(vectors)
    }
}

/// `p - y`.
fn residual(probabilities: &[f64], class: u32) -> Vec<f64> {
    let hit = |c: usize| f64::from(u8::from(c == class as usize));
    let p = probabilities.iter().enumerate();
    p.map(|(c, p)| p - hit(c)).collect()
}

/// The diagonal Hessian of an example.
fn curvatures(row: &[f64], targets: Wanted<'_>) -> Vec<f64> {
    let width = row.len().max(1) as f64;
    row.iter()
        .map(|z| match targets {
            Wanted::Numbers(_) => 2.0 / width,
            Wanted::Classes(_) | Wanted::Flags(_) => {
                let p = metrics::sigmoid(*z);
                p * (1.0 - p) / width
            }
        })
        .collect()
}

/// `f(z, y, number of outputs)`, element by element.
fn each<T: Copy>(
    rows: &[Vec<f64>],
    targets: &[Vec<T>],
    f: impl Fn(f64, T, f64) -> f64,
) -> Vec<Vec<f64>> {
    rows.iter()
        .zip(targets)
        .map(|(row, targets)| {
            let width = row.len().max(1) as f64;
            let pairs = row.iter().zip(targets);
            pairs.map(|(z, y)| f(*z, *y, width)).collect()
        })
        .collect()
}

//! The angles of rotary positions, with the scalings that stretch a model's context.
//! Values are those of `transformers` 5.23 (`modeling_rope_utils.py`), which computes them in `f32`.

use std::f64::consts::PI;

use candle_core::{DType, Device, Result, Tensor};

/// The rotary positions of some layers of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Features of a head that are turned.
    pub dim: usize,
    /// How the frequencies differ from `theta^(-2i/dim)`.
    pub scaling: RopeScaling,
}

/// A change of the frequencies for longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All divided by a factor (Chen et al. 2023, <https://arxiv.org/abs/2306.15595>).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// A base that grows with the sequence, once it is longer than in pre-training.
    Dynamic {
        /// How many times longer a sequence may be.
        factor: f64,
        /// Tokens in pre-training.
        trained: f64,
    },
    /// Low frequencies divided, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Turns within the old context below which a frequency is low.
        low: f64,
        /// Turns above which it is high.
        high: f64,
        /// Tokens in pre-training.
        trained: f64,
    },
    /// A ramp by number of turns, and scaled attention (Peng et al. 2023, <https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// The divisor.
        factor: f64,
        /// Factor of cosine and sine.
        attention: f64,
        /// Turns above which a frequency is kept.
        fast: f64,
        /// Turns below which it is divided.
        slow: f64,
        /// Tokens in pre-training.
        trained: f64,
        /// Whether the ramp starts and ends at whole pairs.
        truncate: bool,
    },
    /// A divisor for each pair (Ding et al. 2024, <https://arxiv.org/abs/2402.13753>).
    Long {
        /// Divisors within the old context.
        short: Vec<f64>,
        /// Divisors beyond.
        long: Vec<f64>,
        /// Factor of cosine and sine.
        attention: f64,
        /// Tokens in pre-training.
        trained: f64,
    },
}

impl RopeConfig {
    /// The frequency of each pair for a sequence of `length` tokens, and the factor of cosine and sine.
    fn frequencies(&self, length: usize) -> (Vec<f64>, f64) {
        let (dim, pairs) = (self.dim as f64, self.dim / 2);
        let plain = |theta: f64| -> Vec<f64> {
            (0..pairs)
                .map(|pair| theta.powf(-2.0 * pair as f64 / dim))
                .collect()
        };
        let base = plain(self.theta);
        match &self.scaling {
            RopeScaling::Default => (base, 1.0),
            RopeScaling::Linear { factor } => (base.iter().map(|f| f / factor).collect(), 1.0),
            RopeScaling::Dynamic { factor, trained } => {
                let stretch = factor * (length as f64).max(*trained) / trained - (factor - 1.0);
                (plain(self.theta * stretch.powf(dim / (dim - 2.0))), 1.0)
            }
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                trained,
            } => {
                let scaled = base.iter().map(|frequency| {
                    let turns = trained * frequency / (2.0 * PI);
                    let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                });
                (scaled.collect(), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                attention,
                fast,
                slow,
                trained,
                truncate,
            } => {
                // The pair that makes this many turns within the old context.
                let pair = |turns: f64| {
                    dim * (trained / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut first, mut last) = (pair(*fast), pair(*slow));
                if *truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                (first, last) = (first.max(0.0), last.min(dim - 1.0));
                if first == last {
                    last += 0.001;
                }
                let scaled = base.iter().enumerate().map(|(pair, frequency)| {
                    let ramp = ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
                    frequency / factor * ramp + frequency * (1.0 - ramp)
                });
                (scaled.collect(), *attention)
            }
            RopeScaling::Long {
                short,
                long,
                attention,
                trained,
            } => {
                let divisors = if length as f64 > *trained {
                    long
                } else {
                    short
                };
                let scaled = base.iter().zip(divisors).map(|(f, divisor)| f / divisor);
                (scaled.collect(), *attention)
            }
        }
    }

    /// Cosine and sine of the angles at these positions, (rows, length, dim / 2).
    pub(super) fn angles(
        &self,
        positions: &[Vec<u32>],
        dtype: DType,
        device: &Device,
    ) -> Result<(Tensor, Tensor)> {
        let length = positions.first().map_or(0, Vec::len);
        let last = positions.iter().flatten().max().copied().unwrap_or(0);
        let (frequencies, scale) = self.frequencies(last as usize + 1);
        let frequencies: Vec<f32> = frequencies.iter().map(|f| *f as f32).collect();
        let make = |f: fn(f32) -> f32| {
            let angles = positions.iter().flatten().flat_map(|position| {
                let turned = frequencies.iter().map(move |f| *position as f32 * f);
                turned.map(move |angle| f(angle) * scale as f32)
            });
            let shape = (positions.len(), length, frequencies.len());
            Tensor::from_vec(angles.collect::<Vec<f32>>(), shape, &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)
        };
        Ok((make(f32::cos)?, make(f32::sin)?))
    }
}

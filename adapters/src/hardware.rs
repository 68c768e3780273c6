//! What the processor can do, and how fast the products of this build run on it.

use serde::Serialize;

use crate::ops::blas::{self, Blas};
pub use crate::ops::blas::{BlasError, VARIABLE as BLAS_VARIABLE};
use crate::ops::time_of_product;

/// Features of the processor that decide how fast products and loops are, and whether it has them.
pub fn cpu_features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    {
        vec![
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ]
    }
    #[cfg(target_arch = "aarch64")]
    {
        vec![("neon", std::arch::is_aarch64_feature_detected!("neon"))]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}

/// What computes `f32` products on the CPU where no library of the system does.
pub const CRATE: &str = "gemm 0.19 (pure Rust)";

/// What computes large `f32` products on the CPU: a library of the system with its file, or the crate.
///
/// # Errors
/// When [`BLAS_VARIABLE`] asks for what this build or this machine does not have. Products are then those of
/// the crate.
pub fn products() -> Result<String, BlasError> {
    Ok(blas::check()?.map_or_else(|| CRATE.to_string(), Blas::name))
}

/// Whether this build can use a library of the system.
pub const HAS_SYSTEM_BLAS: bool = cfg!(feature = "system-blas");

/// Whether [`BLAS_VARIABLE`] names a library, or says `none`.
pub fn is_blas_chosen() -> bool {
    blas::is_chosen()
}

/// Speed of one product.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProductSpeed {
    /// Rows of the activations.
    pub rows: usize,
    /// Columns of the activations.
    pub inner: usize,
    /// Columns of the result.
    pub columns: usize,
    /// 10⁹ additions and multiplications a second, with all threads of the present pool: the best of
    /// several runs, since others may use the machine.
    pub gflops: f64,
}

/// Something that can compute products here, and how fast it does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contender {
    /// The value of [`BLAS_VARIABLE`] that chooses it.
    pub value: String,
    /// Whether it is what computes now.
    pub is_in_use: bool,
    /// Its speed.
    pub speed: ProductSpeed,
}

/// Measures all that this build can use here, with a product in the shape of an encoder's feed-forward layer; about
/// a second.
pub fn contenders() -> Vec<Contender> {
    const ROUNDS: usize = 8;
    let in_use = blas::in_use();
    let mut others = blas::installed();
    others.retain(|blas| in_use.is_none_or(|in_use| in_use.value() != blas.value()));
    let libraries = in_use.into_iter().chain(&others);
    let all: Vec<Option<&Blas>> = std::iter::once(None).chain(libraries.map(Some)).collect();
    let size @ (rows, inner, columns) = (1024, 768, 1024);
    let mut seconds = vec![f64::INFINITY; all.len()];
    // In turn, so that what else the machine does meets all of them.
    for _ in 0..ROUNDS {
        for (blas, best) in all.iter().zip(&mut seconds) {
            *best = best.min(time_of_product(*blas, size, 2));
        }
    }
    all.iter()
        .zip(seconds)
        .map(|(blas, seconds)| Contender {
            value: blas.map_or_else(|| "none".to_string(), Blas::value),
            is_in_use: blas.map(Blas::value) == in_use.map(Blas::value),
            speed: ProductSpeed {
                rows,
                inner,
                columns,
                gflops: 2.0 * (rows * inner * columns) as f64 / seconds * 1e-9,
            },
        })
        .collect()
}

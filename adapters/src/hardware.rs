//! What the processor can do, and how fast the products of this build run on it.

use std::time::Instant;

use serde::Serialize;

use crate::ops::measure_product;

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

/// The library that computes `f32` products on the CPU.
pub const PRODUCTS: &str = "gemm 0.19 (pure Rust)";

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

/// Measures a product in the shape of an encoder's feed-forward layer; a fraction of a second.
pub fn product_speed() -> ProductSpeed {
    let (rows, inner, columns) = (1024, 768, 1024);
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let start = Instant::now();
        measure_product(rows, inner, columns);
        best = best.min(start.elapsed().as_secs_f64());
    }
    ProductSpeed {
        rows,
        inner,
        columns,
        gflops: 2.0 * (rows * inner * columns) as f64 / best * 1e-9,
    }
}

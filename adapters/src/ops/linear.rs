//! Products of row-major activations, (rows, features).

use candle_core::{DType, Device, Result, Tensor};

use super::gemm::{Matrix, Threads, product};
use super::{rows, thin};

/// `x · weightᵀ` over all leading dimensions: (…, in) by (out, in) gives (rows, out).
pub(crate) fn matmul_rows(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)
}

/// Sum over the rows: (rows, n) to (n). A product with ones, since candle's strided sum is several
/// times slower on the CPU.
pub(crate) fn row_sum(x: &Tensor) -> Result<Tensor> {
    let (count, n) = x.dims2()?;
    if rows::is_plain(x) {
        let sums = rows::with_slice(x, |x| Ok(thin::gather(&vec![1.0; count], x, 1, n)))?;
        return Tensor::from_vec(sums, n, &Device::Cpu);
    }
    if !x.device().is_cpu() || !matches!(x.dtype(), DType::F32 | DType::F64) {
        return x.sum(0);
    }
    Tensor::ones((1, count), x.dtype(), x.device())?
        .matmul(x)?
        .squeeze(0)
}

/// A low-rank product beside a weight: `h` (rows, r), `expand` (r, n), both plain.
#[derive(Clone, Copy)]
pub(crate) struct Beside<'a> {
    pub(crate) h: &'a Tensor,
    pub(crate) expand: &'a Tensor,
    pub(crate) scale: f64,
}

/// Which way a weight (out, in) is multiplied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// (rows, in) to (rows, out).
    Forward,
    /// (rows, out) to (rows, in).
    Backward,
}

/// `x Wᵀ + b + scale · h expand`, or with `W` for `Wᵀ`, in one buffer; all tensors are plain.
pub(crate) fn affine(
    x: &Tensor,
    weight: &Tensor,
    way: Way,
    bias: Option<&Tensor>,
    beside: Option<Beside<'_>>,
) -> Result<Tensor> {
    let (count, inner) = x.dims2()?;
    let (out_features, in_features) = weight.dims2()?;
    let (n, expected) = match way {
        Way::Forward => (out_features, in_features),
        Way::Backward => (in_features, out_features),
    };
    if inner != expected {
        candle_core::bail!(
            "the input has {inner} features, the weight is of shape {:?}",
            weight.dims()
        );
    }
    let mut output = rows::with_slice(x, |x| {
        rows::with_slice(weight, |weight| {
            let weight = Matrix::new(weight, out_features, in_features);
            let weight = match way {
                Way::Forward => weight.t(),
                Way::Backward => weight,
            };
            Ok(product(Matrix::new(x, count, inner), weight, Threads::All))
        })
    })?;
    let mut add = |bias: Option<&[f32]>| match (beside, bias) {
        (Some(Beside { h, expand, scale }), bias) => rows::with_slice(h, |h| {
            rows::with_slice(expand, |expand| {
                thin::add_expanded(&mut output, h, expand, n, scale as f32, bias);
                Ok(())
            })
        }),
        (None, Some(bias)) => {
            rows::for_each_row(&mut output, n, |_, row| {
                row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
            });
            Ok(())
        }
        (None, None) => Ok(()),
    };
    match bias {
        Some(bias) => rows::with_slice(bias, |bias| add(Some(bias)))?,
        None => add(None)?,
    }
    Tensor::from_vec(output, (count, n), &Device::Cpu)
}

/// `x aᵀ`: (rows, n) by (r, n) to (rows, r), for few `r`.
pub(crate) fn project(x: &Tensor, a: &Tensor) -> Result<Tensor> {
    if !(rows::is_plain(x) && rows::is_plain(a)) {
        return matmul_rows(x, a);
    }
    let ((count, n), (rank, inner)) = (x.dims2()?, a.dims2()?);
    if n != inner {
        candle_core::bail!("cannot project {:?} by {:?}", x.dims(), a.dims());
    }
    let h = rows::with_slice(x, |x| {
        rows::with_slice(a, |a| {
            Ok(thin::project(x, count, Matrix::new(a, rank, n).t()))
        })
    })?;
    Tensor::from_vec(h, (count, rank), &Device::Cpu)
}

/// `uᵀ x`: (rows, r) and (rows, n) to (r, n), for few `r`.
pub(crate) fn gather(u: &Tensor, x: &Tensor) -> Result<Tensor> {
    if !(rows::is_plain(u) && rows::is_plain(x)) {
        return u.t()?.matmul(x);
    }
    let ((count, rank), (inner, n)) = (u.dims2()?, x.dims2()?);
    if count != inner {
        candle_core::bail!("cannot gather {:?} along {:?}", x.dims(), u.dims());
    }
    let sums = rows::with_slice(u, |u| {
        rows::with_slice(x, |x| Ok(thin::gather(u, x, rank, n)))
    })?;
    Tensor::from_vec(sums, (rank, n), &Device::Cpu)
}

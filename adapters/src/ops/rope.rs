//! Rotary positions: each pair of features of a head is turned by an angle that grows with the position.
//! Source: Su et al. 2021, <https://arxiv.org/abs/2104.09864>, section 3.2; the two halves of what is turned make the
//! pairs, as in `transformers`.

use candle_core::{Result, Tensor};

use super::function::function1;
use super::{rows, vector};

/// `x`: (batch, length, heads · size), the heads side by side; `cos` and `sin` of the angles: (batch or 1, length,
/// pairs). The first 2 · pairs features of each head are turned, the others stay. Returns the shape of `x`.
///
/// # Errors
/// When the shapes do not fit, or a tensor operation fails.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, heads: usize) -> Result<Tensor> {
    let value = turned(&x.detach(), cos, sin, heads, 1.0)?;
    let (cos, sin) = (cos.clone(), sin.clone());
    function1("rope", x, value, move |gradient| {
        // The transpose of a rotation turns back.
        turned(gradient, &cos, &sin, heads, -1.0)
    })
}

/// `way`: 1 to turn forward, -1 to turn back.
fn turned(x: &Tensor, cos: &Tensor, sin: &Tensor, heads: usize, way: f64) -> Result<Tensor> {
    let (batch, length, width) = x.dims3()?;
    let (tables, positions, pairs) = cos.dims3()?;
    let fits = heads > 0
        && width.is_multiple_of(heads)
        && 2 * pairs <= width / heads
        && positions == length
        && (tables == 1 || tables == batch)
        && sin.dims() == cos.dims();
    if !fits {
        candle_core::bail!(
            "angles {:?} do not fit {heads} heads of {:?}",
            cos.dims(),
            x.dims()
        );
    }
    let x = x.contiguous()?;
    if pairs > 0 && rows::is_plain(&x) && rows::is_plain(cos) && rows::is_plain(sin) {
        return fused(&x, cos, sin, (width / heads, pairs), way as f32);
    }
    let heads_of = x.reshape((batch, length, heads, width / heads))?;
    let first = heads_of.narrow(3, 0, pairs)?;
    let second = heads_of.narrow(3, pairs, pairs)?;
    let (cos, sin) = (cos.unsqueeze(2)?, (sin.unsqueeze(2)? * way)?);
    let left = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let right = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    let rest = heads_of.narrow(3, 2 * pairs, width / heads - 2 * pairs)?;
    let parts = if rest.elem_count() == 0 {
        vec![left, right]
    } else {
        vec![left, right, rest]
    };
    Tensor::cat(&parts, 3)?.reshape((batch, length, width))
}

fn fused(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    (size, pairs): (usize, usize),
    way: f32,
) -> Result<Tensor> {
    let width = x.dim(2)?;
    let mut output = vec![0f32; x.elem_count()];
    rows::with_slice(x, |x| {
        rows::with_slice(cos, |cos| {
            rows::with_slice(sin, |sin| {
                let tables = cos.len() / pairs;
                rows::for_each_row(&mut output, width, |row, output| {
                    let start = row % tables * pairs;
                    let (cos, sin) = (&cos[start..][..pairs], &sin[start..][..pairs]);
                    let x = &x[row * width..][..width];
                    vector::run(|| {
                        for (x, output) in x.chunks(size).zip(output.chunks_mut(size)) {
                            turn(x, output, cos, sin, way);
                        }
                    });
                });
                Ok(())
            })
        })
    })?;
    Tensor::from_vec(output, x.shape(), x.device())
}

/// One head of one token.
#[inline(always)]
fn turn(x: &[f32], output: &mut [f32], cos: &[f32], sin: &[f32], way: f32) {
    let pairs = cos.len();
    let (a, b) = x.split_at(pairs);
    let (b, rest) = b.split_at(pairs);
    let (first, second) = output.split_at_mut(pairs);
    let (second, others) = second.split_at_mut(pairs);
    let turns = cos.iter().zip(sin).zip(a.iter().zip(b));
    for ((first, second), ((cos, sin), (a, b))) in first.iter_mut().zip(second).zip(turns) {
        let sin = way * sin;
        *first = a * cos - b * sin;
        *second = b * cos + a * sin;
    }
    others.copy_from_slice(rest);
}

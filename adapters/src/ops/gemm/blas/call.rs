//! A library that is open: its product, and how it is kept to one thread.

use std::cell::RefCell;
use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{Layout, Matrix, Target};
use super::Library;

/// Fortran's interface, column-major. Numbers are passed by address, and as 64 bits: a library whose integers have 32
/// bits reads the lower half, which on a little-endian machine stands at the same address.
pub(super) type Sgemm = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const i64,
    *const i64,
    *const i64,
    *const f32,
    *const f32,
    *const i64,
    *const f32,
    *const i64,
    *const f32,
    *mut f32,
    *const i64,
);

/// oneDNN's interface, row-major.
pub(super) type DnnlSgemm = unsafe extern "C" fn(
    c_char,
    c_char,
    i64,
    i64,
    i64,
    f32,
    *const f32,
    i64,
    *const f32,
    i64,
    f32,
    *mut f32,
    i64,
) -> c_int;

#[derive(Debug, Clone, Copy)]
pub(super) enum Function {
    Fortran(Sgemm),
    OneDnn(DnnlSgemm),
}

/// A function that sets the number of threads. Some set it for the calling thread only.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setter {
    Int(unsafe extern "C" fn(c_int)),
    Long(unsafe extern "C" fn(isize)),
}

/// A library that is open, and stays so: its threads may outlive any use of it.
#[derive(Debug)]
pub(crate) struct Blas {
    number: usize,
    library: Library,
    file: PathBuf,
    function: Function,
    setters: Vec<Setter>,
    is_sequential: bool,
}

impl Blas {
    /// `is_sequential`: whether it has no threads even without a setter.
    ///
    /// # Safety
    /// The functions must have these signatures and stay valid.
    #[expect(unsafe_code, reason = "what the functions are cannot be checked")]
    pub(super) unsafe fn new(
        library: Library,
        file: PathBuf,
        function: Function,
        setters: Vec<Setter>,
        is_sequential: bool,
    ) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            library,
            file,
            function,
            setters,
            is_sequential,
        }
    }

    /// The library and its file.
    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.library.name(), self.file.display())
    }

    /// The value of the variable that chooses it.
    pub(crate) fn value(&self) -> String {
        self.library.name().to_string()
    }

    /// Whether it cannot be kept to one thread, so that the rows must not be split for it.
    pub(crate) fn has_threads_of_its_own(&self) -> bool {
        !self.is_sequential && self.setters.is_empty()
    }

    /// Once on each thread.
    fn keep_to_one_thread(&self) {
        thread_local! {
            static DONE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
        }
        DONE.with_borrow_mut(|done| {
            if done.contains(&self.number) {
                return;
            }
            done.push(self.number);
            for setter in &self.setters {
                #[expect(unsafe_code, reason = "a function of the library")]
                // SAFETY: by the promise of `new`, a function with this signature. It takes a number.
                unsafe {
                    match setter {
                        Setter::Int(set) => set(1),
                        Setter::Long(set) => set(1),
                    }
                }
            }
        });
    }

    /// `c ← factor · a b`, or added to `c`, on this thread. False where the library cannot do it, and `c` is
    /// as it was.
    ///
    /// # Panics
    /// When the sizes do not fit each other or their slices.
    pub(crate) fn product(
        &self,
        c: &mut [MaybeUninit<f32>],
        c_stride: usize,
        target: Target,
        factor: f32,
        a: Matrix<'_>,
        b: Matrix<'_>,
    ) -> bool {
        let ((m, k), (inner, n)) = (a.size(), b.size());
        assert!(k == inner && a.fits() && b.fits() && c_stride >= n);
        assert!(m > 0 && n > 0 && k > 0 && (m - 1) * c_stride + n <= c.len());
        let (Some((a_layout, a_stride)), Some((b_layout, b_stride))) = (a.layout(), b.layout())
        else {
            return false;
        };
        let sizes = [m, n, k, a_stride, b_stride, c_stride];
        if sizes.iter().any(|size| i32::try_from(*size).is_err()) {
            return false;
        }
        let [m, n, k, a_stride, b_stride, c_stride] = sizes.map(|size| size as i64);
        self.keep_to_one_thread();
        let letter = |layout| match layout {
            Layout::Rows => b'N' as c_char,
            Layout::Columns => b'T' as c_char,
        };
        let (a_letter, b_letter) = (letter(a_layout), letter(b_layout));
        let (a, b, c) = (
            a.numbers.as_ptr(),
            b.numbers.as_ptr(),
            c.as_mut_ptr().cast::<f32>(),
        );
        let beta = match target {
            Target::Replace => 0.0,
            Target::AddTo => 1.0,
        };
        #[expect(unsafe_code, reason = "a function of the library")]
        // SAFETY: by the promise of `new`, the functions have these signatures. By the assertions and by the
        // layouts, every entry of the three matrices lies within its slice; `c` is borrowed exclusively, and read
        // only where it is added to, all of it set then. Sizes and strides fit 32 bits, are positive, and strides are at
        // least what lies side by side.
        unsafe {
            match self.function {
                Function::OneDnn(sgemm) => {
                    sgemm(
                        a_letter, b_letter, m, n, k, factor, a, a_stride, b, b_stride, beta, c,
                        c_stride,
                    ) == 0
                }
                // Rows are columns to it, so it computes cᵀ = bᵀ aᵀ.
                Function::Fortran(sgemm) => {
                    sgemm(
                        &b_letter, &a_letter, &n, &m, &k, &factor, b, &b_stride, a, &a_stride,
                        &beta, c, &c_stride,
                    );
                    true
                }
            }
        }
    }
}

//! Finds libraries of the system and opens them.

use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::Library as Opened;

use super::super::{Matrix, Target, target_of};
use super::call::{Blas, DnnlSgemm, Function, Setter, Sgemm};
use super::{BlasError, Choice, Library};

/// What was asked for. With [`Choice::Any`] there may be none.
pub(crate) fn find(choice: Choice) -> Result<Option<Blas>, BlasError> {
    match choice {
        Choice::Nothing => Ok(None),
        Choice::Any => Ok(preferred().find_map(|library| named(library).ok())),
        Choice::Named(library) => named(library).map(Some),
        Choice::File(file) => open(&file, None).map(Some),
    }
}

/// Every library that can be opened.
pub(crate) fn installed() -> Vec<Blas> {
    preferred()
        .filter_map(|library| named(library).ok())
        .collect()
}

/// The order in which they are tried: candle's own choice of this build first.
fn preferred() -> impl Iterator<Item = Library> {
    let first = cfg!(feature = "mkl").then_some(Library::Mkl);
    let rest = Library::ALL
        .into_iter()
        .filter(move |library| Some(*library) != first);
    first.into_iter().chain(rest)
}

/// File names, the newest version first.
fn files(library: Library) -> Vec<PathBuf> {
    let (stems, versions): (&[&str], &[&str]) = match library {
        Library::Accelerate => {
            let file = "/System/Library/Frameworks/Accelerate.framework/Accelerate";
            return vec![file.into()];
        }
        Library::OneDnn => (&["dnnl"], &["3", "2"]),
        Library::Blis => (&["blis", "blis-mt"], &["5", "4"]),
        Library::OpenBlas => (&["openblas", "scipy_openblas"], &["0"]),
        Library::Mkl => (&["mkl_rt"], &["3", "2", "1"]),
    };
    let mut files = Vec::new();
    for stem in stems {
        for version in versions.iter().map(Some).chain([None]) {
            let dot = version.map_or(String::new(), |version| format!(".{version}"));
            files.push(PathBuf::from(if cfg!(windows) {
                format!("{stem}{dot}.dll")
            } else if cfg!(target_os = "macos") {
                format!("lib{stem}{dot}.dylib")
            } else {
                format!("lib{stem}.so{dot}")
            }));
        }
    }
    files
}

fn named(library: Library) -> Result<Blas, BlasError> {
    let mut failures = Vec::new();
    for file in files(library) {
        match open(&file, Some(library)) {
            Ok(blas) => return Ok(blas),
            Err(error) => failures.push(error),
        }
    }
    // A file that is there and fails says more than one that is not there.
    let is_absent = |error: &BlasError| match error {
        BlasError::NotOpened { reason, .. } => reason.contains("No such file"),
        _ => false,
    };
    let telling = failures.iter().position(|error| !is_absent(error));
    let reason = match telling.and_then(|at| failures.get(at)) {
        Some(error) => error.to_string(),
        None => {
            let files: Vec<String> = files(library)
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            format!("no {} among the system's libraries", files.join(", "))
        }
    };
    Err(BlasError::NotOpened {
        what: library.name().to_string(),
        reason,
    })
}

/// Opens a file and tries it out. `library` is read from its functions when not given.
fn open(file: &Path, library: Option<Library>) -> Result<Blas, BlasError> {
    #[expect(unsafe_code, reason = "opening a library runs its initialisers")]
    // SAFETY: the file is one of the names above, or one that the user chose; both are trusted as any
    // library is that a program is linked to.
    let opened = unsafe { Opened::new(file) }.map_err(|error| BlasError::NotOpened {
        what: format!("`{}`", file.display()),
        reason: error.to_string(),
    })?;
    // Never closed: its threads may outlive any use of it.
    let opened = ManuallyDrop::new(opened);
    let unusable = |reason: &str| BlasError::Unusable {
        file: file.display().to_string(),
        reason: reason.to_string(),
    };
    let function = function(&opened).ok_or_else(|| unusable("it has no `sgemm_`"))?;
    let library = library.unwrap_or_else(|| recognised(&opened, function));
    let is_sequential = make_mkl_sequential(&opened);
    #[expect(unsafe_code, reason = "what the functions are cannot be checked")]
    // SAFETY: the names stand for these signatures in all of these libraries, and the library is not closed.
    let blas = unsafe {
        Blas::new(
            library,
            file.to_path_buf(),
            function,
            setters(&opened),
            is_sequential,
        )
    };
    if multiplies(&blas) {
        Ok(blas)
    } else {
        Err(unusable("its products are wrong"))
    }
}

fn function(opened: &Opened) -> Option<Function> {
    if let Some(sgemm) = symbol::<DnnlSgemm>(opened, "dnnl_sgemm") {
        return Some(Function::OneDnn(sgemm));
    }
    // The last ones are those of SciPy's builds.
    ["sgemm_", "sgemm_64_", "scipy_sgemm_", "scipy_sgemm_64_"]
        .into_iter()
        .find_map(|name| symbol::<Sgemm>(opened, name))
        .map(Function::Fortran)
}

fn recognised(opened: &Opened, function: Function) -> Library {
    let has = |name| symbol::<unsafe extern "C" fn()>(opened, name).is_some();
    if matches!(function, Function::OneDnn(_)) {
        Library::OneDnn
    } else if has("bli_thread_set_num_threads") {
        Library::Blis
    } else if has("MKL_Set_Num_Threads") {
        Library::Mkl
    } else if cfg!(target_os = "macos") && has("vDSP_vadd") {
        Library::Accelerate
    } else {
        Library::OpenBlas
    }
}

/// What sets its number of threads; also the function of its OpenMP, which is found among its dependencies.
fn setters(opened: &Opened) -> Vec<Setter> {
    const INT: [&str; 4] = [
        "openblas_set_num_threads",
        "scipy_openblas_set_num_threads",
        "scipy_openblas_set_num_threads64_",
        "omp_set_num_threads",
    ];
    let int = INT
        .into_iter()
        .filter_map(|name| symbol(opened, name).map(Setter::Int));
    let long = symbol(opened, "bli_thread_set_num_threads").map(Setter::Long);
    int.chain(long).collect()
}

/// MKL chooses its threads when it is first used. Without them it needs no OpenMP either.
fn make_mkl_sequential(opened: &Opened) -> bool {
    const SEQUENTIAL: c_int = 1;
    let set = symbol::<unsafe extern "C" fn(c_int) -> c_int>(opened, "MKL_Set_Threading_Layer");
    set.is_some_and(|set| {
        #[expect(unsafe_code, reason = "a function of the library")]
        // SAFETY: MKL's function of this name takes a number and returns the layer that is in use.
        unsafe {
            set(SEQUENTIAL) == SEQUENTIAL
        }
    })
}

fn symbol<T: Copy>(opened: &Opened, name: &str) -> Option<T> {
    #[expect(unsafe_code, reason = "the type of a symbol cannot be checked")]
    // SAFETY: `T` is a function pointer whose signature belongs to the name, and the library is not closed.
    unsafe {
        opened.get::<T>(name).ok().map(|symbol| *symbol)
    }
}

/// Whether it computes a small product, transposed and added, and one whose target it must not read.
fn multiplies(blas: &Blas) -> bool {
    let (m, n, k) = (5, 4, 3);
    let a: Vec<f32> = (0..m * k).map(|i| i as f32 - 6.0).collect();
    let b: Vec<f32> = (0..n * k).map(|i| 5.0 - i as f32).collect();
    let (mut sum, mut alone) = (vec![1f32; m * n], vec![f32::NAN; m * n]);
    let (left, right) = (Matrix::new(&a, m, k), Matrix::new(&b, n, k).t());
    // The sums are small whole numbers, which `f32` holds exactly.
    blas.product(target_of(&mut sum), n, Target::AddTo, 2.0, left, right)
        && blas.product(target_of(&mut alone), n, Target::Replace, 1.0, left, right)
        && (0..m * n).all(|at| {
            let (i, j) = (at / n, at % n);
            let expected: f32 = (0..k).map(|l| left.get(i, l) * right.get(l, j)).sum();
            sum[at] == 1.0 + 2.0 * expected && alone[at] == expected
        })
}

#!/usr/bin/env bash
# Checks the `cuda` feature on a machine without a GPU: every line of it compiles and lints, all kernels compile, the
# binary links, and `--device cuda` without a usable GPU is one clear error. Nothing runs on a GPU here; tests/gpu.sh does
# that. Uses the toolkit of .ci/cuda-toolkit.sh even where another one is installed, so that the result is the same everywhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. .ci/env.sh

toolkit=$(bash .ci/cuda-toolkit.sh)
eval "$toolkit"
export NVCC_APPEND_FLAGS="$CI_NVCC_FLAGS"
# candle's kernels use half of the cores unless told; cargo waits for them in any case.
CUDAFORGE_THREADS="${CUDAFORGE_THREADS:-$(nproc)}"
export CUDAFORGE_THREADS

cargo clippy --locked --workspace --all-targets --features cuda -- -D warnings
cargo build --locked --features cuda --bin autopeft
binary="$CARGO_TARGET_DIR/debug/autopeft"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    printf 'cuda-check: %s\n' "$1" >&2
    sed 's/^/    | /' "$scratch/stdout" "$scratch/stderr" >&2
    exit 1
}

# With a driver library that reports no device, as on a GPU machine whose GPU is taken away.
export LD_LIBRARY_PATH="$AUTOPEFT_CUDA_STUB:$LD_LIBRARY_PATH"
run() { # run ARGUMENTS...; sets `status`
    status=0
    (cd "$scratch" && "$binary" "$@" >stdout 2>stderr </dev/null) || status=$?
}

run --version
[ "$status" = 0 ] || fail "the CUDA binary does not start (exit $status)"

run select --device cuda --out "$scratch/out"
[ "$status" = 2 ] || fail "\`select --device cuda\` without a GPU exits with $status, not with 2"
[ "$(grep -c '^error' "$scratch/stderr")" = 1 ] || fail "\`select --device cuda\` without a GPU does not print exactly one error"
grep -qi 'cuda' "$scratch/stderr" || fail "the error does not name CUDA"
! grep -q '^Usage:' "$scratch/stderr" || fail "the command line is not understood, so the device was never asked for"
! grep -q 'panicked' "$scratch/stderr" || fail "\`select --device cuda\` without a GPU panics"
[ ! -s "$scratch/stdout" ] || fail "\`select --device cuda\` without a GPU writes to stdout"
[ ! -e "$scratch/out" ] || fail "\`select --device cuda\` without a GPU leaves an output folder behind"

echo "cuda-check: compiled, linted and linked; \`--device cuda\` without a GPU says:"
sed 's/^/    /' "$scratch/stderr"

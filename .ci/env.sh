# shellcheck shell=bash
# Sourced by the scripts beside it, from the checkout's root: where builds are kept, and how they are made.
#
# What is slow to make is kept outside the checkout, so that a fresh clone on a machine that has built before starts from
# compiled dependencies. AUTOPEFT_CACHE moves the folder; CARGO_TARGET_DIR, when set, moves the builds alone.
#
# The builds' folder is named after what makes them slow: the locked versions of candle and cudarc, rustc, and nvcc with
# its flags. A change of any other dependency stays in the same folder, where cargo rebuilds just that one.

export AUTOPEFT_CACHE="${AUTOPEFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/autopeft}"
export CARGO_INCREMENTAL=0 CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"

# CI's kernels are compiled, not run: nvcc's fast mode makes them in a fraction of the time, and finds the same faults.
# Builds that shall run on a GPU (tests/gpu.sh) use neither these flags nor this folder.
export CI_NVCC_FLAGS="--Ofast-compile=max"
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}" # otherwise nvidia-smi is asked, which is not there

build_key() {
    {
        awk '/^name = "(candle-|cudarc|cudaforge)/ { name = $0; getline; print name, $0 }' Cargo.lock
        rustc -vV
        grep -o 'nvidia-cuda-nvcc==[0-9.]*' .ci/cuda-toolkit.sh
        printf '%s\n' "$CI_NVCC_FLAGS" "$CUDA_COMPUTE_CAP"
    } | sha256sum | cut -c1-12
}

if [ -z "${CARGO_TARGET_DIR:-}" ]; then
    CARGO_TARGET_DIR="$AUTOPEFT_CACHE/target-$(build_key)"
    export CARGO_TARGET_DIR
    # Clones under other paths leave artifacts of their own behind; begin anew before they fill the disk.
    if [ -d "$CARGO_TARGET_DIR" ] && [ "$(du -s --block-size=1G "$CARGO_TARGET_DIR" | cut -f1)" -gt 24 ]; then
        rm -rf "$CARGO_TARGET_DIR"
    fi
fi
mkdir -p "$AUTOPEFT_CACHE" "$CARGO_TARGET_DIR"
touch "$CARGO_TARGET_DIR" # the date of the last use
find "$AUTOPEFT_CACHE" -mindepth 1 -maxdepth 1 \( -name 'target-*' -o -name 'cuda-*' \) -mtime +14 -exec rm -rf {} +

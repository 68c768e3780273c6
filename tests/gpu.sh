#!/usr/bin/env bash
# Runs the tests that compute on an NVIDIA GPU, then the quickstart on it. Where there is no GPU it fails: it never skips.
#
#     bash tests/gpu.sh              build and run on this machine
#     bash tests/gpu.sh build DIR    build only, into DIR; needs no GPU (set CUDA_COMPUTE_CAP to the GPU's, e.g. 90)
#     bash tests/gpu.sh run DIR      run what `build` put into DIR; needs no Rust and no compiler, just the CUDA libraries
#
# The same tests hold on every device: AUTOPEFT_TEST_DEVICE says where they compute (adapters/tests/device). Those marked
# `#[ignore = "needs a GPU"]` compare the two. The CUDA toolkit is the installed one, or that of .ci/cuda-toolkit.sh.
# Release build, so that tests and quickstart share it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
# Every test program that computes.
programs=(ops laws parity gradients adapter_parity decoders language gguf probe quickstart select_end_to_end)
export AUTOPEFT_TEST_DEVICE=cuda

fail() { printf 'gpu: %s\n' "$1" >&2; exit 1; }

require_gpu() {
    if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
        [ -e /dev/nvidia0 ] || fail "this machine has no NVIDIA GPU (no nvidia-smi, no /dev/nvidia0), and these tests need one"
    fi
}

use_toolkit() {
    if [ -z "${CUDA_HOME:-}" ] && [ -x /usr/local/cuda/bin/nvcc ]; then export CUDA_HOME=/usr/local/cuda; fi
    if [ -n "${CUDA_HOME:-}" ]; then export PATH="$CUDA_HOME/bin:$PATH"; fi
    if ! command -v nvcc >/dev/null; then
        local exports
        exports=$(bash .ci/cuda-toolkit.sh)
        eval "$exports"
    fi
    nvcc --version | grep release
}

build() { # build FOLDER: the test programs, their list, and the binary
    use_toolkit
    local messages
    messages=$(mktemp)
    cargo build --locked --release --features cuda --bin autopeft
    cargo test --locked --release --workspace --features cuda "${programs[@]/#/--test=}" --no-run \
        --message-format=json-render-diagnostics >"$messages"
    local target="${CARGO_TARGET_DIR:-$root/target}"
    mkdir -p "$1"
    rm -rf "$1/tests" "$1/tests.list"
    mkdir "$1/tests"
    cp "$target/release/autopeft" "$1/autopeft"
    echo "$root" >"$1/root"
    echo "$target/release/autopeft" >"$1/binary"
    # One line a test program: its package's folder, and the program.
    sed -n 's/.*"manifest_path":"\([^"]*\)\/Cargo.toml".*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1 \2/p' \
        "$messages" | while read -r package program; do
        cp "$program" "$1/tests/"
        echo ".${package#"$root"} tests/$(basename "$program")" >>"$1/tests.list"
    done
    rm "$messages"
    [ "$(wc -l <"$1/tests.list")" = "${#programs[@]}" ] || fail "some of the programs ${programs[*]} were not built"
}

use_libraries() { # the CUDA libraries may lie in a toolkit, or in Python's wheels
    local wheels folder
    wheels=$(python3 -c 'import nvidia; print(*nvidia.__path__, sep="\n")' 2>/dev/null | head -1) || true
    for folder in "${CUDA_HOME:-/usr/local/cuda}"/{lib64,lib} ${wheels:+"$wheels"/*/lib}; do
        if [ -e "$folder" ]; then export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"; fi
    done
    local missing
    missing=$(ldd "$1" | awk '/not found/ { printf "%s ", $1 }')
    [ -z "$missing" ] || fail "the CUDA binary needs ${missing% }, which no library folder has; install CUDA's runtime libraries"
}

run() { # run FOLDER
    local folder program package name logs failed=()
    folder=$(cd "$1" && pwd)
    use_libraries "$folder/autopeft"
    nvidia-smi -L 2>/dev/null || true

    # Tests know fixtures and the binary by the paths of the build.
    local built_root built_binary
    built_root=$(cat "$folder/root")
    built_binary=$(cat "$folder/binary")
    if [ ! -e "$built_root" ]; then
        mkdir -p "$(dirname "$built_root")"
        ln -s "$root" "$built_root"
        echo "gpu: linked $built_root to $root, where the tests were built"
    fi
    if [ ! -e "$built_binary" ]; then
        mkdir -p "$(dirname "$built_binary")"
        cp "$folder/autopeft" "$built_binary"
    fi

    # One program and one thread at a time: beside each other, some stood still before their first pass.
    logs=$(mktemp -d)
    while read -r package program; do
        name=$(basename "$program")
        (cd "$root/$package" && timeout 600 "$folder/$program" --include-ignored --test-threads=1 \
            </dev/null >"$logs/$name" 2>&1 || echo "gpu: $name exits with $?" >>"$logs/$name")
    done <"$folder/tests.list"
    for name in "$logs"/*; do
        printf 'gpu: %s\n' "${name##*/}"
        cat "$name"
        if grep -q '^gpu: ' "$name" || ! grep -q '^test result: ok' "$name"; then failed+=("${name##*/}"); fi
    done
    [ "${#failed[@]}" = 0 ] || fail "device tests failed in ${failed[*]}"

    local result dtype
    result=$(mktemp -d)
    for dtype in f32 bf16 f16; do
        "$folder/autopeft" select --device cuda --dtype "$dtype" --out "$result/$dtype"
        [ -s "$result/$dtype/adapter_model.safetensors" ] || fail "\`select --device cuda --dtype $dtype\` made no adapter"
    done
    rm -rf "$result"
    grep -h '^test result:' "$logs"/*
    echo "gpu: the tests and the quickstarts passed"
    rm -r "$logs"
}

case "${1:-all}" in
    all)
        require_gpu
        build "$root/target/gpu-tests"
        run "$root/target/gpu-tests"
        ;;
    build) build "${2:?usage: bash tests/gpu.sh build DIR}" ;;
    run)
        require_gpu
        run "${2:?usage: bash tests/gpu.sh run DIR}"
        ;;
    *) fail "unknown argument \`$1\`; see the head of tests/gpu.sh" ;;
esac

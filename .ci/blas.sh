#!/usr/bin/env bash
# Holds products by a library of the system to the same tests, with an OpenBLAS from PyPI (8 MB). From the checkout's root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. .ci/env.sh
pin=scipy-openblas32==0.3.34.481.3
folder=$AUTOPEFT_CACHE/blas-${pin##*=}
if [ ! -d "$folder" ]; then
    rm -rf "$folder.part"
    python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: --target "$folder.part" "$pin"
    mv "$folder.part" "$folder"
fi
AUTOPEFT_BLAS=$(find "$folder" -name 'libscipy_openblas*' | head -n 1)
[ -n "$AUTOPEFT_BLAS" ] || { echo "blas.sh: $pin holds no library" >&2; exit 1; }
export AUTOPEFT_BLAS
cargo test --locked --workspace --features system-blas --test blas --test laws --test ops

#!/usr/bin/env bash
# Writes exports of every mix of surviving kinds with Rust, and reads them with Python's peft and AdapterHub: their logits
# must be ours. The cases are written by the ignored tests of tests/interop.rs into the folder that AUTOPEFT_CASES names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. .ci/env.sh

cases=$(mktemp -d)
trap 'rm -rf "$cases"' EXIT
AUTOPEFT_CASES="$cases" cargo test --locked --workspace --test interop -- --ignored
count=$(find "$cases" -mindepth 1 -maxdepth 1 -type d | wc -l)
[ "$count" -gt 0 ] || { echo "interop: tests/interop.rs wrote no cases" >&2; exit 1; }
echo "interop: $count cases"
bash tests/interop/run.sh "$cases"

#!/usr/bin/env bash
# Holds both halves of the side-by-side benchmark to the same losses and slopes, on a tiny encoder and a tiny decoder; times are not looked at.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
venv=$(tests/interop/venv.sh | tail -n 1)
cargo build --locked --quiet --example versus_torch
target=$(cargo metadata --locked --format-version 1 --no-deps | "$venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
for model in tiny tiny-llama; do
    PYTHONPATH="$venv/current" "$venv/bin/python" benches/versus_torch/run.py --check --model "$model" --program "$target/debug/examples/versus_torch"
done

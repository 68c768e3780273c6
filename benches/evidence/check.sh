#!/usr/bin/env bash
# The smallest comparison, on the embedded model and data, with the claims that hold at that size; times are not looked at.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
run() { cargo run --locked --release --quiet --example evidence -- benches/evidence/settings/smallest.yaml --out "$out"; }
run
# Finished arms are not run again.
before=$(wc -l <"$out/runs.csv")
run >/dev/null
[ "$(wc -l <"$out/runs.csv")" = "$before" ] || { echo "evidence: a finished arm was run again" >&2; exit 1; }
[ -s "$out/tables.md" ] && [ -s "$out/quickstart.svg" ] || { echo "evidence: tables or plot are missing" >&2; exit 1; }
echo "evidence: $((before - 1)) arms, all claims hold"

#!/usr/bin/env bash
# The smallest comparison, on the embedded model and data, with the claims that hold at that size, and the checks of the peft arms;
# times are not looked at.
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
[ -s "$out/groups.md" ] && [ -s "$out/tables.md" ] && [ -s "$out/quickstart.svg" ] || { echo "evidence: tables or plot are missing" >&2; exit 1; }
echo "evidence: $((before - 1)) arms, all claims hold"
# The options of the other Python checks.
venv=$(tests/interop/venv.sh | tail -n 1)
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$venv/current" \
    "$venv/bin/python" -m pytest -c tests/interop/pytest.ini --rootdir benches/evidence/peft benches/evidence/peft/test_arms.py

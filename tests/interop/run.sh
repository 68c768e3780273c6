#!/usr/bin/env bash
# Proves that Python reads our exports: peft of two versions, transformers of two versions, AdapterHub's adapters.
#   run.sh                makes the cases with `cargo run --example interop_cases`, then as below
#   run.sh CASES          the checks' own check, then every case in the folder (see cases.py) under both stacks
#   run.sh --self-check   the checks' own check only
# It makes the Python environment if need be (venv.sh). No case is a failure.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() {
    echo "usage: run.sh [CASES | --self-check]" >&2
    exit 2
}
[ $# -le 1 ] || usage
made=
case ${1-} in
    "")
        made=$(mktemp -d)
        trap 'rm -rf "$made"' EXIT
        cases=$made
        ;;
    --self-check) cases= ;;
    -*) usage ;;
    *) cases=$(cd "$1" && pwd) ;;
esac
venv=$("$here/venv.sh" | tail -n 1)
if [ -n "$made" ]; then
    cargo run --locked --quiet --manifest-path "$here/../../Cargo.toml" --example interop_cases -- "$made"
fi

cd "$here"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
for stack in current adapterhub; do
    tests=(test_selfcheck.py)
    if [ -n "$cases" ]; then
        tests+=(test_peft.py test_merged.py)
        [ "$stack" = current ] || tests+=(test_adapterhub.py)
    fi
    echo "run.sh: stack $stack"
    AUTOPEFT_CASES="$cases" PYTHONPATH="$venv/$stack" "$venv/bin/python" -m pytest "${tests[@]}"
done

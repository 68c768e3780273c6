#!/usr/bin/env bash
# The README's main job, `cargo run --release -- select`, from nothing but the embedded model and data. It runs in a folder
# of its own, so that the numbered `runs/` folder it makes does not end up in the checkout, and its result is looked at.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. .ci/env.sh
root=$PWD

cargo build --locked --release
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
start=$SECONDS
cargo run --locked --release --manifest-path "$root/Cargo.toml" -- select </dev/null
elapsed=$((SECONDS - start))

results=("$folder"/runs/*/)
if [ "${#results[@]}" != 1 ] || [ ! -d "${results[0]}" ]; then
    echo "quickstart: runs/ does not hold exactly one result" >&2
    exit 1
fi
adapter=.
[ ! -d "${results[0]}/bottleneck" ] || adapter=peft # where a bottleneck adapter survived
for file in "$adapter"/adapter_config.json "$adapter"/adapter_model.safetensors selection.json recipe.yaml metrics.jsonl README.md; do
    [ -s "${results[0]}/$file" ] || { echo "quickstart: the result has no $file" >&2; exit 1; }
done
echo "quickstart: done in $elapsed s"

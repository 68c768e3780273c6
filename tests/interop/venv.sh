#!/usr/bin/env bash
# Makes the Python environment of the fixtures and interop tests, once; later calls find it.
# The last line of stdout is its folder, here V. It holds one torch and two stacks of libraries over it:
#   PYTHONPATH=$V/current    $V/bin/python …    newest transformers and peft
#   PYTHONPATH=$V/adapterhub $V/bin/python …    adapters (AdapterHub), its transformers, an older peft
# The folder's name has a hash of the pins, so a changed pin makes a new one. It is built under a temporary
# name and renamed when complete: a folder that exists is a whole environment.
# Needs Python 3.11 or newer (`PYTHON` names another one), about 7 GB of disk and some minutes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
cache=${AUTOPEFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/autopeft}
pins=("$here"/requirements-base.txt "$here"/requirements-current.txt "$here"/requirements-adapterhub.txt)

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "venv.sh: $python is older than Python 3.11; set PYTHON to a newer one" >&2
    exit 1
}
key=$("$python" - "${pins[@]}" <<'PY'
import hashlib, pathlib, sys, sysconfig

digest = hashlib.sha256(sysconfig.get_platform().encode() + bytes(sys.version_info[:2]))
for path in sys.argv[1:]:
    digest.update(pathlib.Path(path).read_bytes())
print(digest.hexdigest()[:12])
PY
)
final=$cache/python-$key

mkdir -p "$cache"
if [ ! -d "$final" ]; then
    # One build at a time; whoever waited finds the folder ready.
    if command -v flock >/dev/null; then
        exec 9>"$cache/python.lock"
        flock 9
    fi
fi
if [ ! -d "$final" ]; then
    build=$(mktemp -d "$cache/python-$key.XXXXXX")
    trap 'rm -rf "$build"' EXIT
    echo "venv.sh: making $final (downloads about 3 GB)" >&2
    {
        "$python" -m venv "$build"
        install=("$build/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --only-binary :all:)
        "${install[@]}" -r "$here/requirements-base.txt"
        for stack in current adapterhub; do
            "${install[@]}" --no-deps --target "$build/$stack" -r "$here/requirements-$stack.txt"
            PYTHONPATH="$build/$stack" "$build/bin/python" -c 'import peft, torch, transformers'
        done
        PYTHONPATH="$build/adapterhub" "$build/bin/python" -c 'import adapters'
    } >&2
    chmod 755 "$build"
    mv "$build" "$final"
    trap - EXIT
fi
echo "$final"

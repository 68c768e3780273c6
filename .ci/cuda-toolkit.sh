#!/usr/bin/env bash
# Makes, once, a folder with everything that `--features cuda` needs to build: nvcc 13.0 and the CUDA libraries, from
# PyPI's wheels, and a stub of the driver's libcuda. Then prints the environment to export:
#
#     eval "$(bash .ci/cuda-toolkit.sh)"
#
# No GPU, no driver and no root rights are needed. Progress goes to stderr, so that stdout can be evaluated.
#
# Why 13.0: cudarc accepts a closed list of CUDA versions, and nvcc's newest is past its end.
# Why a stub: libcuda comes with the driver and is in no package. candle links to it, so a CUDA binary without it neither
# links nor starts. The stub has every function that cudarc declares, and each answers "no CUDA-capable device".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wheels=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-cccl==13.0.85
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-nvrtc==13.0.88
    nvidia-cublas==13.0.2.14
    nvidia-curand==10.4.0.35
)
cache="${AUTOPEFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/autopeft}"

say() { printf 'cuda-toolkit: %s\n' "$*" >&2; }

for tool in python3 cargo cc g++; do
    command -v "$tool" >/dev/null || { say "\`$tool\` is missing; install it first"; exit 2; }
done

# The functions to stub are those that the locked cudarc declares.
cudarc_version=$(awk '/^name = "cudarc"$/ { getline; gsub(/[^0-9.]/, ""); print }' Cargo.lock)
[ -n "$cudarc_version" ] || { say "Cargo.lock has no cudarc; has the \`cuda\` feature gone?"; exit 2; }

hash=$(printf '%s\n' "${wheels[@]}" "cudarc $cudarc_version" | cat - .ci/cuda-toolkit.sh | sha256sum | cut -c1-12)
folder="$cache/cuda-13.0-$hash"

cudarc_source() { # the folder of cudarc's source, wherever this cargo keeps it
    cargo metadata --locked --format-version 1 --features cuda | python3 -c '
import json, pathlib, sys
packages = json.load(sys.stdin)["packages"]
print(next(pathlib.Path(p["manifest_path"]).parent for p in packages if p["name"] == "cudarc"))'
}

write_stub() { # write_stub CUDARC_SOURCE FILE.c
    python3 - "$1/src/driver/sys/mod.rs" >"$2" <<'PYTHON'
import re, sys

text = open(sys.argv[1], encoding="utf-8").read()
names = sorted(set(re.findall(r"\bfn (cu[A-Z]\w*)", text)))
if len(names) < 100:
    sys.exit(f"only {len(names)} driver functions found in {sys.argv[1]}; its layout has changed")
print("// 100 is CUDA_ERROR_NO_DEVICE: what a driver answers on a machine without a GPU.")
for name in names:
    if name == "cuGetErrorName":
        print(f'int {name}(int e, const char **s) {{ *s = "CUDA_ERROR_NO_DEVICE"; return 0; }}')
    elif name == "cuGetErrorString":
        print(f'int {name}(int e, const char **s) {{ *s = "no CUDA-capable device is detected"; return 0; }}')
    else:
        print(f"int {name}(void) {{ return 100; }}")
PYTHON
}

if [ ! -e "$folder/complete" ]; then
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/.cuda-13.0-XXXXXX")
    trap 'rm -rf "$new"' EXIT
    say "installing ${#wheels[@]} wheels into $folder (once, about 1.2 GB)"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
        --no-compile --target "$new/wheels" "${wheels[@]}" >&2
    mv "$new/wheels/nvidia/cu13" "$new/cuda"
    rm -r "$new/wheels"
    # The wheels have only versioned names (libcublas.so.13); the linker looks for libcublas.so.
    for name in cublas cublasLt cudart curand nvrtc; do
        file=$(cd "$new/cuda/lib" && ls -d lib$name.so.*)
        ln -s "$file" "$new/cuda/lib/lib$name.so"
    done
    source=$(cudarc_source)
    write_stub "$source" "$new/libcuda.c"
    # Two places: lib/ for the linker, under the name without a version; stub/ for the loader. Only who puts stub/ on
    # LD_LIBRARY_PATH runs with the stub, so a real driver is never shadowed by it.
    mkdir "$new/stub"
    cc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$new/stub/libcuda.so.1" "$new/libcuda.c"
    cp "$new/stub/libcuda.so.1" "$new/cuda/lib/libcuda.so"
    touch "$new/complete"
    # A rename is atomic: two runs at once both make a folder, and one of them wins.
    mv -T "$new" "$folder" 2>/dev/null || [ -e "$folder/complete" ] || { say "cannot write $folder"; exit 2; }
fi

version=$("$folder/cuda/bin/nvcc" --version | grep -o 'release [0-9.]*') || { say "nvcc in $folder does not run"; exit 2; }
say "nvcc $version, $folder"
cat <<SHELL
export CUDA_HOME='$folder/cuda'
export CUDA_PATH='$folder/cuda'
export NVCC='$folder/cuda/bin/nvcc'
export PATH='$folder/cuda/bin':"\$PATH"
export LD_LIBRARY_PATH='$folder/cuda/lib'"\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
export AUTOPEFT_CUDA_STUB='$folder/stub'
SHELL

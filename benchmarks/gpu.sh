#!/bin/sh
# Everything that needs a GPU, in one command and without a network: the tests that were skipped
# elsewhere, then the benchmarks. Prints one JSON document; what happens meanwhile goes to stderr.
#
#     benchmarks/gpu.sh > gpu.json
#     PYTHON=.venv/bin/python benchmarks/gpu.sh --shapes 0.6b        # options of gpu_decode
set -u
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "there is no CUDA device here (or no torch that could use it): nothing was run" >&2
    exit 1
fi

folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m pytest -m gpu --timeout 600 --junitxml "$folder/tests.xml" tests >&2
tests=$?
"$PYTHON" -m benchmarks.gpu_decode --json "$folder/decode.json" "$@" >&2
decode=$?
"$PYTHON" -m benchmarks.long_context --folder "$folder" --json "$folder/long_context.json" >&2
long_context=$?
"$PYTHON" -m benchmarks.gpu_products --json "$folder/products.json" >&2
products=$?
"$PYTHON" -m benchmarks.gpu_report "$folder" || exit 1
[ $((tests + decode + long_context + products)) -eq 0 ]

#!/bin/sh
# Everything that needs a GPU, in one command and without a network: the tests of whatever runs on
# one, then the benchmarks. Prints one JSON document; what happens meanwhile goes to stderr.
#
#     benchmarks/gpu.sh > gpu.json                                   # tens of minutes
#     QUICK=1 benchmarks/gpu.sh > gpu.json                           # within nine minutes
#     PARTS="decode products" benchmarks/gpu.sh > gpu.json           # some of them
#     PYTHON=.venv/bin/python benchmarks/gpu.sh --shapes 0.6b        # options of gpu_decode
#
# With QUICK, each part is ended when its time is over and what it has found until then is kept:
# decode (bfloat16 0.6B, 1.7B and 8B, Q4_K 8B, 1 and 32 streams, transformers beside them), then steps
# launched ahead (0.6B), the tests of the kernels of a decode step and of whole models, then products
# with Q4_K.
set -u
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
QUICK=${QUICK:-}
PARTS=${PARTS:-${QUICK:+decode look_ahead tests products}}
PARTS=${PARTS:-tests decode look_ahead long_context products}
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
unset TRITON_INTERPRET  # there is a GPU: kernels are to run on it

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "there is no CUDA device here (or no torch that could use it): nothing was run" >&2
    exit 1
fi

folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT

# Ends a command after so many seconds if time is short: by an interrupt, after which pytest reports.
within() {
    seconds=$1
    shift
    if [ -n "$QUICK" ]; then
        timeout -s INT -k 15 "$seconds" "$@" >&2
    else
        "$@" >&2
    fi
}

tests_that_use_a_gpu() {
    if [ -n "$QUICK" ]; then
        kernels=tests/engine/kernels
        echo tests/engine/test_on_gpu.py tests/engine/test_sampling.py $kernels/test_decoding.py \
            $kernels/test_choosing.py $kernels/test_small_kernels.py $kernels/test_one_row.py \
            tests/engine/ahead/test_guessing.py
    else
        grep -rlE 'mark\.gpu|cuda\.is_available|import .*DEVICE' tests --include='test_*.py'
    fi
}

failed=0
for part in $PARTS; do
    json="$folder/$part.json"
    case $part in
    tests)
        # shellcheck disable=SC2046  # several files, none with a space in its name
        within 150 "$PYTHON" -m pytest --timeout 600 --junitxml "$folder/tests.xml" \
            $(tests_that_use_a_gpu)
        ;;
    decode) within 240 "$PYTHON" -m benchmarks.gpu_decode --json "$json" ${QUICK:+--quick} "$@" ;;
    look_ahead)
        within 50 "$PYTHON" -m benchmarks.look_ahead --json "$json" \
            ${QUICK:+--shapes 0.6b --batches 1 32 --rounds 3}
        ;;
    long_context) within 100 "$PYTHON" -m benchmarks.long_context --folder "$folder" --json "$json" ;;
    products) within 60 "$PYTHON" -m benchmarks.gpu_products --json "$json" ${QUICK:+--formats Q4_K} ;;
    *)
        echo "there is no part named $part: tests, decode, look_ahead, long_context, products" >&2
        false
        ;;
    esac || failed=1
done
"$PYTHON" -m benchmarks.gpu_report "$folder" || exit 1
exit $failed

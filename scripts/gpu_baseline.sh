#!/usr/bin/env bash
# What the gateway costs in front of llama-server on this machine's GPU, in one go:
#
#     scripts/gpu_baseline.sh                    # an 8B model on CUDA, 1 to 64 streams
#     scripts/gpu_baseline.sh --device cpu       # the program itself, tried on a CPU
#
# The work is done in tests/bench/gpu/; docs/gpu-baseline.md says what the figures mean. PYTHON=...
# names another Python that has the project's packages, for machines without a way to get them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

python=${PYTHON:-$root/.venv/bin/python}
if [ -z "${PYTHON:-}" ]; then make --silent -C "$root" .venv/.installed >&2; fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
"$python" -c 'import gateway, gguf, httpx, psutil' || {
    echo "gpu_baseline: $python lacks packages of the project: run 'make setup'" >&2
    exit 2
}
exec "$python" -m tests.bench.gpu "$@"

#!/usr/bin/env bash
# benchmarks/gpu.sh [ARGUMENT...]: what genfw does on this GPU, in at most eight minutes: gpu.py with these arguments.
# A fresh machine needs a Python with torch and network access, or one that has genfw's dependencies already (PYTHON=...).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH=$PWD/core:$PWD/plugins:$PWD/cli:$PWD/benchmarks/speed
if ! "$python" -c "import genfw, genfw_plugins, lightning_fabric, attrs, pluggy" 2>/dev/null; then
  # torch stays the one that the machine came with, built for its driver.
  "$python" -m venv --system-site-packages .venv-gpu
  .venv-gpu/bin/python -m pip install -q -e .
  python=.venv-gpu/bin/python
fi
exec timeout -k 5 480 "$python" benchmarks/gpu.py "$@"

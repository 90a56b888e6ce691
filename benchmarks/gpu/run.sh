#!/bin/sh
# From a bare machine with an NVIDIA driver, Python 3.10 to 3.12 and pip to pictures and step times.
#
#     sh benchmarks/gpu/run.sh [FOLDER]      (default: build/gpu; 20 GB of disk, 16 GB of memory)
#
# Installs ONNX Runtime and torch with CUDA from PyPI into FOLDER/venv, exports the demo's and a
# full-size random checkpoint on the CPU, compares the demo's pictures on the GPU with the CPU's, and
# measures the full size against diffusers. TENSORRT=1 installs TensorRT too and takes its provider
# in. This has not yet run on hardware.
set -eu
cd "$(dirname "$0")/../.."
FOLDER=${1:-build/gpu}
mkdir -p "$FOLDER"
python3 -m venv "$FOLDER/venv"
PYTHON="$FOLDER/venv/bin/python"
PIP="$PYTHON -m pip install --quiet"
$PIP --editable '.[export,bench]' torch diffusers transformers
# The two share files: the one for CPUs has to go before the one for GPUs comes.
"$PYTHON" -m pip uninstall --quiet --yes onnxruntime
$PIP --force-reinstall --no-deps onnxruntime-gpu
$PIP --editable '.[onnxruntime-gpu]'
if [ "${TENSORRT:-0}" = 1 ]; then
    $PIP 'tensorrt==10.*'
fi

"$FOLDER/venv/bin/ldm-engine" export examples/shapes/checkpoint "$FOLDER/shapes" \
    --formats paddle,onnx --force
"$PYTHON" benchmarks/agreement.py "$FOLDER/shapes" --device gpu:0 --captions 16 \
    --sheets "$FOLDER/sheets" --output "$FOLDER/agreement.json"

"$PYTHON" examples/random_checkpoint.py "$FOLDER/large-checkpoint" --size large --force
"$FOLDER/venv/bin/ldm-engine" export "$FOLDER/large-checkpoint" "$FOLDER/large" \
    --formats onnx --force
"$FOLDER/venv/bin/ldm-engine" verify "$FOLDER/large" --device gpu:0
"$PYTHON" benchmarks/suite.py gpu "$FOLDER/large" "$FOLDER/large-checkpoint" \
    --conversions "$FOLDER/conversions" --output "$FOLDER/results"

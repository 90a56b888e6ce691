#!/bin/sh
# From a bare machine with an NVIDIA driver, Python 3.10 to 3.12 and pip to pictures and step times.
#
#     sh benchmarks/gpu/run.sh [FOLDER]      (default: build/gpu; 20 GB of disk, 16 GB of memory)
#
# Installs ONNX Runtime and torch with CUDA from PyPI into FOLDER/venv, exports the demo's and a
# full-size random checkpoint on the CPU, renders the demo on the GPU, and times the UNet step.
# TENSORRT=1 installs TensorRT too and takes its provider in. This has not yet run on hardware.
set -eu
cd "$(dirname "$0")/../.."
FOLDER=${1:-build/gpu}
mkdir -p "$FOLDER"
python3 -m venv "$FOLDER/venv"
PYTHON="$FOLDER/venv/bin/python"
PIP="$PYTHON -m pip install --quiet"
$PIP --editable '.[export]' torch diffusers transformers
# The two share files: the one for CPUs has to go before the one for GPUs comes.
"$PYTHON" -m pip uninstall --quiet --yes onnxruntime
$PIP --force-reinstall --no-deps onnxruntime-gpu
$PIP --editable '.[onnxruntime-gpu]'
OURS="--ours onnxruntime:fp32 --ours onnxruntime:fp16"
if [ "${TENSORRT:-0}" = 1 ]; then
    $PIP 'tensorrt==10.*'
    OURS="$OURS --ours onnxruntime-tensorrt:fp16"
fi

"$FOLDER/venv/bin/ldm-engine" export examples/shapes/checkpoint "$FOLDER/shapes" \
    --formats paddle,onnx --force

# Shows what was found also where it is not good enough, and then ends.
render() {
    name=$1
    shift
    failed=0
    "$PYTHON" benchmarks/gpu/render.py "$FOLDER/shapes" --output "$FOLDER/pictures-$name" "$@" \
        > "$FOLDER/render-$name.json" || failed=$?
    cat "$FOLDER/render-$name.json"
    [ "$failed" = 0 ] || echo "The pictures of $name failed; see above." >&2
    return "$failed"
}

render fp32 --runtime onnxruntime
render fp16 --runtime onnxruntime --precision fp16
if [ "${TENSORRT:-0}" = 1 ]; then
    render tensorrt --runtime onnxruntime-tensorrt --precision fp16
fi

"$PYTHON" examples/random_checkpoint.py "$FOLDER/large-checkpoint" --size large --force
"$FOLDER/venv/bin/ldm-engine" export "$FOLDER/large-checkpoint" "$FOLDER/large" \
    --formats onnx --force
"$FOLDER/venv/bin/ldm-engine" verify "$FOLDER/large" --device gpu:0
"$PYTHON" benchmarks/gpu/unet_step.py "$FOLDER/large" "$FOLDER/large-checkpoint" $OURS \
    --output "$FOLDER/unet-step.json"

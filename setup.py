"""Package metadata and the one mapping from the repository's folders to importable packages."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"$', (ROOT / "engine/version.py").read_text(), re.MULTILINE
)
assert VERSION, 'engine/version.py must hold one line: __version__ = "X.Y.Z"'

PADDLE = ["paddlepaddle>=3.2.2,<3.4"]
OPENVINO = ["openvino>=2026.4,<2027"]
ONNXRUNTIME = ["onnxruntime>=1.20"]
# Shares its files with onnxruntime, and includes it. Paddle's package for GPUs is not on PyPI.
# onnx is for fp16 there.
ONNXRUNTIME_GPU = ["onnxruntime-gpu[cuda,cudnn]>=1.23", "onnx>=1.16.1"]
EXPORT = [
    *PADDLE,
    "huggingface_hub>=0.25",
    "pyyaml>=6",
    # For the formats onnx and openvino; paddle2onnx has no package for Python 3.13.
    "onnx>=1.16.1; python_version < '3.13'",
    "paddle2onnx>=2.1,<2.2; python_version < '3.13'",
    *(f"{requirement}; python_version < '3.13'" for requirement in [*OPENVINO, *ONNXRUNTIME]),
]
INT8 = [*EXPORT, "nncf>=3.4,<4"]
RENDER = ["fsspec>=2023.1", "pyarrow>=14"]
RAY = [*RENDER, "ray[data]>=2.9"]
PEERS = [
    "torch==2.13.0",
    "diffusers==0.42.1",
    "transformers>=4.48,<6",
]

setup(
    name="ldm-engine",
    version=VERSION[1],
    description=(
        "Static-graph inference engine for latent-diffusion text-to-image models "
        "of the CompVis/ldm-text2im-large-256 family"
    ),
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    package_dir={"ldm_engine": "engine", "ldm_engine.export": "export"},
    packages=[
        "ldm_engine",
        "ldm_engine.benchmarking",
        "ldm_engine.generating",
        "ldm_engine.rendering",
        "ldm_engine.runtimes",
        "ldm_engine.export",
        "ldm_engine.export.checkpoint",
        "ldm_engine.export.models",
        "ldm_engine.export.formats",
    ],
    package_data={
        "ldm_engine": ["py.typed"],
        "ldm_engine.export": ["py.typed"],
        "ldm_engine.rendering": ["*.html"],
    },
    install_requires=[
        "numpy>=1.24",
        "pillow>=9.5",
        "tokenizers>=0.15",
        "click>=8.1",
        "rich>=13",
    ],
    extras_require={
        "paddle": PADDLE,
        "openvino": OPENVINO,
        "onnxruntime": ONNXRUNTIME,
        "onnxruntime-gpu": ONNXRUNTIME_GPU,
        "export": EXPORT,
        "int8": INT8,
        "render": RENDER,
        "ray": RAY,
        "peers": PEERS,
        # PaddleNLP imports beside Paddle 3 only with these pins, and brings about 100 packages:
        # give it an environment of its own.
        "paddlenlp": [
            "paddlenlp==2.8.1",
            "aistudio-sdk<0.3",
            "huggingface-hub<0.30",
            "datasets<3",
        ],
        # The plots of benchmarks/.
        "bench": ["matplotlib>=3.9"],
        "dev": [
            "build>=1.2",
            "hypothesis>=6.100",
            "mypy>=1.13",
            "pytest>=8",
            "ruff>=0.8",
            "safetensors>=0.4",
            "types-PyYAML",
            # An S3 store on loopback, and the client through which users reach theirs.
            "s3fs>=2024.2",
            "moto[s3]>=5",
            "flask>=3",
            "flask-cors>=4",
        ],
    },
    entry_points={"console_scripts": ["ldm-engine = ldm_engine.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: POSIX :: Linux",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)

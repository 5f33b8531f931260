"""Package metadata of keras_moco; the exact versions it was tested with are in `constraints.txt`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version():
    """Reads `__version__` as text: importing the package would need TensorFlow before it is installed."""
    text = (ROOT / "keras_moco" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('`keras_moco/__init__.py` must hold a line `__version__ = "..."`. Received: none.')
    return match.group(1)


ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.17"]
TFLITE = ["ai-edge-litert>=1.4"]
# In place of tensorflow: docs/multi_gpu_and_multi_machine.md says how to install one without the other. A libtpu from
# 0.0.32 on lacks functions of TensorFlow 2.20, which then aborts when it is imported.
TPU = ["tensorflow-tpu==2.20.*", "libtpu>=0.0.14,<0.0.32"]
# TIFF, JPEG 2000, DICOM and HEIC; all other formats need nothing more.
FORMATS = [
    "tifffile>=2024.8.10",
    "imagecodecs>=2024.6.1",
    "pydicom>=3.0.0",
    "python-gdcm>=3.0.24.1",  # for compressed DICOM
    "pillow-heif>=0.18",
]
HUB = ["keras-hub>=0.32"]  # on Python 3.11 and later, with Keras 3.15
NOTEBOOK = ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"]  # to execute it; to read it, any Jupyter does
WANDB = ["wandb>=0.20"]  # the first ones with `reinit="create_new"`
MLFLOW = ["mlflow-skinny>=3"]  # its client, which the whole `mlflow` contains
HUGGINGFACE = ["huggingface_hub>=0.30"]
# What tests of these three need. The whole `mlflow` admits neither our NumPy nor our protobuf, so its server is
# mlflow-skinny with what the server imports.
SERVICES = [
    *WANDB,
    *MLFLOW,
    *HUGGINGFACE,
    "Flask>=3",
    "Flask-CORS>=5",
    "SQLAlchemy>=2",
    "alembic>=1.14",
    "graphene>=3.4",
    "aiohttp>=3.11",
    "pandas>=2.2",
]
TORCH = ["torch>=2.6", "safetensors>=0.4.3"]  # older ones can be made to run what a file holds
BENCH = [*TORCH, "torchvision>=0.21"]  # what is compared with
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.5",
    "safetensors>=0.4.3",
    "faiss-cpu>=1.8",
    "selenium>=4.20",
    "scipy>=1.15",
    "packaging>=24",
    "markdown-it-py>=4.3",
    "setuptools>=80.9",
    *ONNX,
    *TFLITE,
    *NOTEBOOK,
    *FORMATS,
    *(f'{each}; python_version >= "3.11"' for each in HUB),
]

setup(
    name="keras_moco",
    version=read_version(),
    description="Momentum Contrast (MoCo) for TensorFlow and Keras 3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    py_modules=["keras_moco_command"],
    packages=[*find_packages(include=["keras_moco", "keras_moco.*"]), "keras_moco.recipes"],
    # The recipes are a folder of data. `keras_moco/config/recipes.py` finds them in a checkout, too.
    package_dir={"keras_moco.recipes": "configs"},
    package_data={"keras_moco": ["py.typed"], "keras_moco.recipes": ["*.cfg"]},
    entry_points={"console_scripts": ["keras-moco = keras_moco_command:main"]},
    install_requires=[
        "tensorflow>=2.20,<2.22",
        "keras>=3.12,<3.17",
        "keras-cv==0.9.*",
        "tensorflow-datasets>=4.9.9,<5",
        "importlib_resources>=6",  # tensorflow-datasets imports it without asking for it
        "tensorboard>=2.20",
        "absl-py>=2",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "protobuf>=5.29.5",
        "threadpoolctl>=3.1",
        "pillow>=11.3",  # the first one with AVIF
        "h5py>=3.11",
    ],
    extras_require={
        "test": TEST,
        "formats": FORMATS,
        "hub": HUB,
        "wandb": WANDB,
        "mlflow": MLFLOW,
        "huggingface": HUGGINGFACE,
        "services": SERVICES,
        "torch": TORCH,
        "tpu": TPU,
        "bench": BENCH,
        "onnx": ONNX,
        "tflite": TFLITE,
        "dev": [*TEST, "ruff>=0.15", "mypy>=2"],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)

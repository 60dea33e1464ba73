"""resnorm: how residual connections and normalisation work together.

``import resnorm`` is light: each public name loads its module at first use.
"""

from importlib import import_module

__version__ = "0.1.0"

PUBLIC = {
    "norms": ["check_conversion", "convert_norm", "norm"],
    "recursion": ["fuse"],
    "letters": ["Scalar", "add", "concat", "drop_path", "dropout", "layer_scale", "lerp"],
    "words": ["Block", "Tied", "draw", "equation", "parse"],
    "streams": ["Attend", "Dense", "Depth", "Dual", "Hyper", "Jump", "Plain", "Stack", "Stream", "Sum"],
    "branches": ["attention", "conv", "conv1x1", "conv3x3", "cross_attention", "linear", "mlp"],
    "catalog": ["VARIANTS", "Variant", "variant"],
    "models": [
        "bert",
        "build",
        "cifar_densenet",
        "cifar_resnet",
        "densenet",
        "generate",
        "load_weights",
        "mlp_stack",
        "resnet",
        "seq2seq",
        "transformer_lm",
        "translate",
        "vit",
    ],
    "theory": ["predict", "skip_share"],
    "probes": ["measure"],
    "data": ["DataSet", "load"],
    "training": ["Recipe", "Run", "fit"],
    "lab": ["Experiment", "Record", "Store", "run", "sweep"],
    "claims": ["claim"],
}
_MODULE_OF = {name: module for module, names in PUBLIC.items() for name in names}

__all__ = ["__version__", "describe_environment", *_MODULE_OF]


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'resnorm' has no attribute {name!r}; public names: {', '.join(sorted(__all__))}")
    return getattr(import_module(f"resnorm.{_MODULE_OF[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})


def describe_environment() -> str:
    """One line with the versions of resnorm, Python and torch, and the device that torch would compute on."""
    import platform

    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({torch.get_num_threads()} threads)"
    return f"resnorm {__version__}, Python {platform.python_version()}, torch {torch.__version__}, {device}"

"""Running policies: replayed on saved predictions, or compiled with the network.

The names are looked up when they are asked for: who runs a bundle needs neither.
"""

import importlib

_MODULES = {
    "Decisions": "replay",
    "Prediction": "prediction",
    "adaptive_predict": "staged",
    "simulate": "replay",
}

__all__ = ["Decisions", "Prediction", "adaptive_predict", "simulate"]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

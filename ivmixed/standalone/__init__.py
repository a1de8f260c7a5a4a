"""The sampler without a WebUI: Python API and command line over diffusers (``pip install 'ivmixed[standalone]'``).

`generate` goes from settings to a clip, `IVMixedPipeline` takes your own diffusers pipelines; both show an example.
"""
from typing import TYPE_CHECKING, Any

from .settings import Settings

if TYPE_CHECKING:
    from ..clips.encode import MediaError
    from .loading import LoadError
    from .pipeline import Clip, IVMixedPipeline
    from .txt2vid import generate, load, plan

_WHERE = {"Clip": "pipeline", "IVMixedPipeline": "pipeline", "LoadError": "loading", "MediaError": "media",
          "generate": "txt2vid", "load": "txt2vid", "plan": "txt2vid"}

__all__ = ["Clip", "IVMixedPipeline", "LoadError", "MediaError", "Settings", "generate", "load", "plan"]


def __getattr__(name: str) -> Any:
    """diffusers takes seconds to import: it is loaded with the first name that needs it."""
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)

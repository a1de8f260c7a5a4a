"""IV-Mixed Sampler (ICLR 2025, arXiv 2410.04171): an image and a video diffusion model take turns on one clip.

The core (`kinds`, `options`, `presets`, `plan`, `sampling`, `schedule`) needs torch and knows no host; nor does
`ivmixed.motion`, AnimateDiff's motion modules; `ivmixed.webui` is the extension for the Stable Diffusion WebUI,
`ivmixed.standalone` the command line and Python API over diffusers.
"""
from typing import TYPE_CHECKING, Any

from .options import OPTIONS, ConflictError, Option, OptionError, Options, ramp
from .plan import Move, Plan, make_plan, spread
from .presets import PRESETS, Preset
from .released import released_plan
from .schedule import Schedule, abar_to_sigma, match_timestep, sigma_to_abar

if TYPE_CHECKING:
    from .sampling import NonFiniteError, sample_iv_mixed

__version__ = "0.1.0"

__all__ = [
    "OPTIONS", "PRESETS", "ConflictError", "Move", "NonFiniteError", "Option", "OptionError", "Options", "Plan",
    "Preset", "Schedule", "abar_to_sigma", "make_plan", "match_timestep", "ramp", "released_plan", "sample_iv_mixed",
    "sigma_to_abar", "spread",
]


def __getattr__(name: str) -> Any:
    """torch takes seconds to import: it is loaded with the first name that needs it."""
    if name not in ("NonFiniteError", "sample_iv_mixed"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import sampling

    return getattr(sampling, name)

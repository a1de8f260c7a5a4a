"""AnimateDiff's motion modules, for any UNet in the original layout; knows torch and safetensors and no host::

    module = load("v3_sd15_mm.ckpt", dtype=torch.float16, device="cuda")
    with attach(unet, module) as motion:
        motion.frames = 16                 # rows come as (sets x 16 frames); None: motion is off
        ...

`files` and `lora` read model files, `module` is the network, `loading` makes it from a file, `attach` puts it into a
UNet, `windows` cuts long clips, `noise` is what a clip begins with, `travel` is prompts that change along the clip,
`options` what a user chooses.
"""
from ..controls import LOOPS, MotionControls
from .attach import Motion, attach
from .loading import MotionError, check, load
from .module import Layout, ModuleKind, MotionModule
from .noise import sample_again
from .options import FORMATS, MotionOptions
from .travel import Travel, TravelError
from .windows import evaluate_in_windows, uniform_windows

__all__ = [
    "FORMATS",
    "LOOPS",
    "Layout",
    "ModuleKind",
    "Motion",
    "MotionControls",
    "MotionError",
    "MotionModule",
    "MotionOptions",
    "Travel",
    "TravelError",
    "attach",
    "check",
    "evaluate_in_windows",
    "load",
    "sample_again",
    "uniform_windows",
]

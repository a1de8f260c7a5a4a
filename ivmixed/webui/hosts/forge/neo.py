"""Forge Neo, the branch that goes on from Forge main.

Read beside ``backend/loader.py``, ``backend/args.py`` (``dynamic_args``) and ``sd_forge_compile/scripts/compile.py`` of
version 2.26. What is not here is as on Forge main: the denoiser, the network's noise table (``Prediction``), the memory
manager's list.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

import torch
from backend.args import dynamic_args

from ....motion import Motion
from ....patch import replaced
from ...builtin.generation import BuiltinClip
from .main import ForgeMain


class ForgeNeo(ForgeMain):
    """Forge Neo."""

    def load_checkpoint(self, info: Any) -> Any:
        with ExitStack() as stack:
            # the loader notes there what a checkpoint is, for all that the host does with the one that is chosen
            for name, noted in list(vars(dynamic_args).items()):
                if not name.startswith("_") and not isinstance(noted, (classmethod, staticmethod)):
                    stack.enter_context(replaced(dynamic_args, name, copy(noted)))
            return super().load_checkpoint(info)

    @contextmanager
    def attached(self, clip: BuiltinClip) -> Iterator[Motion]:
        # its torch.compile calls what was compiled for stills, where motion's hooks are not: it looks for none later
        with torch.compiler.set_stance("force_eager"), super().attached(clip) as motion:
            yield motion

    def tab_title(self, name: str) -> str:
        return name

"""Forge Neo, the branch that goes on from Forge main.

Read beside ``backend/loader.py`` and ``backend/args.py`` (``dynamic_args``) of version 2.26. What is not here is as on
Forge main: the denoiser, the network's noise table (``Prediction``), the memory manager's list.
"""
from __future__ import annotations

from contextlib import ExitStack
from copy import copy
from typing import Any

from backend.args import dynamic_args

from ....patch import replaced
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

    def tab_title(self, name: str) -> str:
        return name

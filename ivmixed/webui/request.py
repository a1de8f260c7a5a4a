"""What the extension keeps with one request of the host: one object, ``p.iv_mixed``, that `of` gives.

A request is a ``StableDiffusionProcessing`` of the host's ``modules/processing.py``. A script may ask with one request
many times, and the X/Y/Z plot copies it for each of its cells.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from ..clips.encode import Frames
from ..options import OptionSet
from . import hosts

if TYPE_CHECKING:
    from .builtin.generation import BuiltinClip
    from .selectable import ScriptRun


class Sampled(NamedTuple):
    """What the latest sampling took: evaluations that were made, of so many ``planned``, and the time."""

    evaluations: int
    planned: int
    seconds: float


class Request:
    """What is kept with the request ``p``, which holds it: so ``p`` is known by a weak reference."""

    def __init__(self, p: Any):
        self._p = weakref.ref(p)
        self._before: dict[str, Any] = {}
        """The attributes of ``p`` that `change` has given other values, as they were; None: it had the class's."""
        self.script_run: ScriptRun | None = None
        """The run of a selectable script that it belongs to."""
        self.cell: dict[str, Any] = {}
        """The options of its cell in an X/Y/Z plot, by name."""
        self.clip: BuiltinClip | None = None
        """The clip with built-in motion that it asks for."""
        self.image_model: Any = None
        """The image model, where it is not the loaded checkpoint: both passes of hires fix, and all clips of a batch,
        have one."""
        self.noise_tables: list[tuple[Any, str, Tensor]] = []
        """The host's noise tables as they were before it: (object, attribute, table)."""
        self.asks_video = True
        """Whether the latest sampling asks the video model at all."""
        self.sampled: Sampled | None = None
        """Of the latest sampling with a sampler of ours."""
        self.frames: list[Frames] | None = None
        """Where a list is put here the frames come into it, as uint8 (height, width, 3)."""
        self.until_sampled = ExitStack()
        """What is changed in the host for it until its sampling begins."""
        self.check_controls: Callable[[], None] | None = None
        """Says before the sampling whether ControlNet took the request's control video."""

    @property
    def p(self) -> Any:
        """The host's request."""
        return self._p()

    def of_cell(self, options: type[OptionSet]) -> dict[str, Any]:
        """The values of its cell that are of one set of options, by name."""
        names = {option.name for option in options.declared()}
        return {name: value for name, value in self.cell.items() if name in names}

    def copied(self, p: Any) -> Request:
        """That of ``p``, a copy of this one's request.

        It belongs to the same run of a script, has the options of the same cell, and can be put back to what was
        asked. What was made for the other request, and what is to be freed with it, stays the other's.
        """
        copy = Request(p)
        copy.script_run, copy.cell, copy._before = self.script_run, {**self.cell}, {**self._before}
        return copy

    def change(self, **values: Any) -> None:
        """Gives the request other attributes, until `restore`."""
        for name in (*values, "hr_prompt", "hr_negative_prompt"):  # these the host takes from the others
            self._before.setdefault(name, vars(self.p).get(name))
        for name, value in values.items():
            setattr(self.p, name, value)

    def restore(self) -> None:
        """The request asks for what it asked before: a script may go on with it."""
        self.until_sampled.close()
        for name, value in self._before.items():
            if value is None:
                vars(self.p).pop(name, None)
            else:
                setattr(self.p, name, value)
        self._before.clear()

    # the course of a request, as the scripts' hooks tell it ---------------------------------------------------------

    def begin(self) -> None:
        """Before the host begins with it, also where it was made before."""
        self.restore()
        self.clip, self.asks_video, self.sampled, self.check_controls = None, True, None, None

    def guard(self) -> None:
        """Before the host changes anything for it, with our sampler or our motion; the checkpoint is loaded.

        Forge main loads it only after the hooks ``before_process``, and other hosts may load another then.
        """
        p, sample, close = self.p, self.p.sample, self.p.close
        hosts.find().prepare(p)

        def guarded_sample(*args: Any, **kwargs: Any) -> Any:
            with put_back_after_errors(p):
                self.until_sampled.close()
                return sample(*args, **kwargs)

        def guarded_close() -> None:
            self.until_sampled.close()
            hosts.find().failed(p)  # an error after the sampling, in the decoder say: `finish` takes this away
            close()
        self.change(sample=guarded_sample, close=guarded_close)

    def finish(self) -> None:
        """At its end; not after an error."""
        self.restore()
        hosts.find().finished(self.p)

    def refuse(self, error: Exception) -> None:
        """Lets it end with ``error`` where the host begins to make its pictures: of what a hook raises it only has a
        line in its log."""
        p = self.p
        self.until_sampled.close()

        def stop(*args: Any, **kwargs: Any) -> Any:
            hosts.find().failed(p)
            raise error
        self.change(init=stop, sample=stop)


def of(p: Any) -> Request:
    """What is kept with the host's request ``p``: its own, also where ``p`` is a copy of another request."""
    kept: Request | None = getattr(p, "iv_mixed", None)
    if kept is None or kept.p is not p:
        kept = p.iv_mixed = Request(p) if kept is None else kept.copied(p)
    return kept


@contextmanager
def put_back_after_errors(p: Any) -> Iterator[None]:
    """After an error within the block, of whatever kind, the host is as before the request: hosts and extensions only
    think of success."""
    try:
        yield
    except BaseException:
        hosts.find().failed(p)
        raise

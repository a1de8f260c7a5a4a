"""What makes the clips of a batch on one device: it loads models once, and says of each job what came of it."""
from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...clips import media
from ...clips.encode import MediaError
from ...sampling import NonFiniteError
from ...untrusted import Refusal, shown
from .. import txt2vid
from ..pipeline import Clip, IVMixedPipeline
from . import store
from .engine import Lost
from .jobs import Job
from .rows import plain

OUT_OF_MEMORY = "out of memory: use fewer or smaller frames, --image-chunk, --vae-slicing or --offload"


@dataclass(frozen=True)
class Result:
    """What came of a job. ``status``: "made", "there" (before), "claimed" (another run is making it), "refused" (never
    to be tried again as it is), "failed", or "unwritable" (so would be all others)."""

    status: str
    seconds: float = 0.0
    field: str = ""
    message: str = ""

    @property
    def is_there(self) -> bool:
        return self.status in ("made", "there")


@dataclass(frozen=True)
class Task:
    """A job to be done. ``wait``: for another run, where one is making the clip."""

    job: Job
    wait: bool = False


class ClipWorker:
    """``ClipWorker(folder, "cuda", memory)(task)``: makes the clip of a job in the folder, unless it is there.

    ``memory``: the switches of `txt2vid.load`. Models stay loaded until a job needs others.
    """

    def __init__(self, folder: Path, device: str = "auto", memory: Mapping[str, bool] | None = None):
        self.folder, self.device, self.memory = folder, device, dict(memory or {})
        self._models: tuple[object, ...] = ()
        self._pipe: IVMixedPipeline | None = None

    def __call__(self, task: Task) -> Result:
        """Raises `Lost` where the device is of no use any more."""
        job = task.job
        try:
            if not (self.folder / job.clip).parent.is_dir():
                return Result("unwritable", message=f"{shown(str(self.folder))} is not on this machine, or is gone: "
                              "--out has to be on a disk that all machines share")
            with store.claimed(self.folder, job, task.wait) as mine:
                if store.is_done(self.folder, job):
                    return Result("there")
                return self._keep(job, self._make(job)) if mine else Result("claimed")
        except Refusal as error:
            return Result("refused", field=str(getattr(error, "field", "")), message=plain(error))
        except (NonFiniteError, MemoryError) as error:
            return Result("failed", message=plain(error) or OUT_OF_MEMORY)
        except Exception as error:  # whatever it is, it is of this row, and the others are still to be made
            said = plain(error)
            if "out of memory" in said:
                self._drop()
                return Result("failed", message=OUT_OF_MEMORY)
            if "CUDA error" in said:
                raise Lost(said) from error
            return Result("failed", message=f"{type(error).__name__}: {shown(said)}")

    def _make(self, job: Job) -> Clip:
        device = txt2vid.choose_device(self.device)
        if self._pipe is None or self._models != job.models:
            self._drop()
            self._pipe, self._models = txt2vid.load(job.settings, device, **self.memory), job.models
        return txt2vid.generate(job.settings, self.device, pipe=self._pipe, progress=False)

    def _keep(self, job: Job, clip: Clip) -> Result:
        facts = {"evaluations": clip.evaluations, "seconds": round(clip.seconds, 3)}
        try:
            made = store.publish(self.folder, job, clip, facts)
        except MediaError as error:
            try:
                files, _ = media.save_clip(self.folder / job.clip, clip.frames, clip.fps, clip.settings)
                elsewhere = f"; the clip is in {shown(str(files[0]))} instead"
            except MediaError:
                elsewhere = "; the clip could not be saved anywhere"
            return Result("unwritable", field="out", message=plain(error) + elsewhere)
        return Result("made" if made else "there", clip.seconds)

    def _drop(self) -> None:
        """Frees the memory of the models."""
        self._pipe, self._models = None, ()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

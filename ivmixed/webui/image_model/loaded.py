"""Another model as the image model on the Forge family: a second checkpoint of the host's, beside the loaded one.

The host's own loader makes it, its Lora extension patches it, and its memory manager moves it as it moves the loaded
one. The clip's patcher stays, with all that extensions have put into it (ControlNet, IP-Adapter, context windows): only
the network under it is another while the image model is asked.
"""
from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modules import processing, sd_models

from ...options import Options
from ...patch import replaced
from ...weights import files
from .. import log, request
from ..extensions import lora
from . import checkpoints


def forget(p: Any, loaded: list[Any]) -> None:
    """Frees the memory of a request's image model; ``loaded`` is the memory manager's list of what it has moved."""
    kept, model = request.of(p), request.of(p).image_model
    kept.image_model = None
    if model is not None:
        loaded[:] = [entry for entry in loaded if not model.holds(entry.model)]
        del model.sd_model, model._own  # others may have it still
        gc.collect()  # the parts of a checkpoint go round in circles


class LoadedImageModel:
    """A checkpoint beside the loaded one; its LoRAs come with `patch`.

    ``info`` is the host's entry of its list, ``load`` the host's way from such an entry to a model. Raises OptionError
    where it cannot be the image model.
    """

    def __init__(self, info: Any, load: Callable[[Any], Any]):
        sd_model = sd_models.model_data.get_sd_model()
        checkpoints.check(info, checkpoints.family_of(sd_model))
        started = time.monotonic()
        try:
            self.sd_model = load(info)
        except Exception as error:
            problem = f"cannot be loaded ({files.one_line(error)})"
            raise checkpoints.refused(info, problem, "a whole checkpoint") from error
        parts = self.sd_model.forge_objects
        self._own = [part.model for part in (parts.unet, parts.clip.patcher)]
        self.filename = info.filename
        log.info(f"image model: {info.name}, beside the video model, loaded in {time.monotonic() - started:.1f} s")

    @classmethod
    def of_request(cls, p: Any, info: Any, load: Callable[[Any], Any]) -> LoadedImageModel:
        """That of a request, which keeps it: both passes of hires fix, and all clips of a batch, have one."""
        kept = request.of(p)
        model: LoadedImageModel | None = kept.image_model
        if model is None or model.filename != info.filename:
            model = kept.image_model = cls(info, load)
        return model

    @property
    def unet(self) -> Any:
        """The host's patcher of its UNet, LoRAs included."""
        return self.sd_model.forge_objects.unet

    def holds(self, patcher: Any) -> bool:
        """Whether a patcher of the host's is one of this model."""
        return any(getattr(patcher, "model", None) is own for own in self._own)

    @contextmanager
    def chosen(self, p: Any) -> Iterator[None]:
        """Within the block it is the host's checkpoint, with tiling as the request ``p`` has it."""
        with replaced(sd_models.model_data, "sd_model", self.sd_model):
            processing.apply_circular_forge(self.sd_model, p.tiling)
            yield

    def patch(self, options: Options, clips: list[Any], asked: list[Any]) -> None:
        """Puts the clip's LoRAs into it, and for the image model alone ``asked``, of which one may be in both.

        To be called where it is `chosen`. Raises OptionError.
        """
        if not asked and lora.extension() is None:
            return
        networks = lora.required(options)
        before = networks.loaded_networks[:]
        try:
            for entry in asked:
                _require_lora(networks, options, entry)
                lora.activate([entry])
                parts, original = self.sd_model.forge_objects, self.sd_model.forge_objects_original
                if parts.unet is original.unet and parts.clip is original.clip:
                    raise lora.unfit(options, entry.positional[0])
            names = {entry.positional[0] for entry in asked}
            lora.activate([entry for entry in clips if entry.positional[0] not in names] + asked)
        finally:
            networks.loaded_networks[:] = before

    @contextmanager
    def swapped_in(self, unet: Any) -> Iterator[None]:
        """Within the block the network under the clip's patcher ``unet`` is this model's."""
        with replaced(unet, "model", self.unet.model):
            yield

    @contextmanager
    def loaded_with(self, unet: Any) -> Iterator[None]:
        """Within the block the host's memory manager brings it to the GPU where it brings ``unet``."""
        also = [*unet.extra_model_patchers_during_sampling, self.unet]
        with replaced(unet, "extra_model_patchers_during_sampling", also):
            yield


def _require_lora(networks: Any, options: Options, entry: Any) -> None:
    """Raises OptionError for a LoRA that is not there."""
    name = entry.positional[0]
    if name not in networks.available_network_aliases:
        networks.list_available_networks()  # it may have come since
    if name not in networks.available_network_aliases:
        raise lora.missing(options, name)


def loras_of(p: Any) -> list[Any]:
    """The LoRAs of the clip in the pass that is due, as the host reads them from its prompt."""
    data = getattr(p, "hr_extra_network_data" if p.is_hr_pass else "extra_network_data", None) or {}
    return list(data.get("lora", ()))

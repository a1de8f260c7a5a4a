"""Another model as the image model in AUTOMATIC1111: other weights in the host's UNet while it is asked.

The UNet stays, with all that the host and its extensions have put around its layers (ControlNet, IP-Adapter, tiling,
token merging); its parameters are exchanged, and what the Lora extension has noted of them. So LoRAs are put into the
weights of each model once, not at every exchange. The loaded checkpoint is never unloaded: whatever happens, the host
has the model that it had. Where the device has no room for both models they take turns: weights are copied to it and
dropped there, and only what was changed there is copied back.
"""
from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from modules import devices, sd_models, sd_unet

from ...options import OptionError
from ...weights import files
from .. import log, request
from ..extensions import lora
from . import checkpoints

UNET, TEXT = "model.diffusion_model.", "cond_stage_model."
"""How the names of a checkpoint file begin."""
CPU = torch.device("cpu")


def forget(p: Any) -> None:
    """Frees the memory of a request's image model: the host's objects hold on to each other, and p with them."""
    kept, model = request.of(p), request.of(p).image_model
    kept.image_model = None
    if model is not None:
        for weights in (model.unet, model.text):
            weights.clear()
        if hasattr(torch._C, "_host_emptyCache"):  # else pinned memory stays with the process
            torch._C._host_emptyCache()


class SwappedImageModel:
    """The weights of a checkpoint for the UNet and the text encoder of the loaded one.

    ``left_out``: motion modules in the UNet, which are not the checkpoint's. Raises OptionError where it is of another
    kind.
    """

    def __init__(self, sd_model: Any, info: Any, left_out: Iterable[nn.Module], networks: lora.Networks):
        self.networks = networks
        """The LoRAs that are in force while it is asked."""
        self.keep_on_gpu = True
        """Its weights stay where the video model's are; else each model's come there when it is asked."""
        self.filename, self.host_unet = info.filename, sd_model.model.diffusion_model
        _check(sd_model, info)
        started = time.monotonic()
        unet, text = sd_model.model.diffusion_model, sd_model.cond_stage_model
        places = {UNET: _layers(unet, UNET, frozenset(left_out)), TEXT: _layers(text, TEXT)}
        state = sd_models.get_state_dict_from_checkpoint(files.read(info.filename))  # by its content, not its ending
        self.unet, self.text = (_Weights(layers, state, info) for layers in places.values())
        log.info(f"image model: {info.name}, {self.unet.size / 2**30:.1f} GiB in memory beside the video model, read "
                 f"in {time.monotonic() - started:.1f} s")

    @classmethod
    def of_request(cls, p: Any, info: Any, left_out: Iterable[nn.Module], networks: lora.Networks) -> SwappedImageModel:
        """That of a request, which keeps it: both passes of hires fix, and all clips of a batch, have one."""
        kept, unet = request.of(p), p.sd_model.model.diffusion_model
        model: SwappedImageModel | None = kept.image_model
        if model is None or model.filename != info.filename or model.host_unet is not unet:
            model = kept.image_model = cls(p.sd_model, info, left_out, networks)
        model.networks = networks
        return model

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Within the block the host's text encoder is this model's."""
        with lora.forced(self.networks), self.text.exchanged(False):
            yield

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within the block the host's UNet is this model's."""
        with lora.forced(self.networks), self.unet.exchanged(self.keep_on_gpu):
            yield

    def free_vram(self) -> bool:
        """Leaves the GPU to the video model while this one is not asked; False where it did already."""
        if not self.keep_on_gpu:
            return False
        self.keep_on_gpu = False
        self.offload()
        log.info("out of memory with two models: they take turns now, which takes longer")
        return True

    def offload(self) -> None:
        """Leaves the device: the weights on the CPU stay."""
        self.unet.leave()
        devices.torch_gc()


def _check(sd_model: Any, info: Any) -> None:
    """Raises OptionError for a checkpoint that is not of the loaded one's kind; its weights are not read."""
    if sd_unet.current_unet is not None:
        raise checkpoints.refused(info, "has no place in another UNet than the checkpoint's own",
                                  "nothing with TensorRT and the like")
    checkpoints.check(info, checkpoints.SD15 if getattr(sd_model, "is_sd1", False) else None)


class _Layer:
    """A layer of the host with parameters, and their names in a checkpoint file."""

    def __init__(self, layer: nn.Module, names: dict[str, str]):
        self.layer, self.names = layer, names


def _layers(module: nn.Module, prefix: str, left_out: frozenset[nn.Module] = frozenset()) -> list[_Layer]:
    """The layers that a checkpoint has weights for. What the host has put around one (``wrapped``) or AnimateDiff
    between two does not count in their names."""
    found = []
    names = {name: prefix + name for name, parameter in module._parameters.items() if parameter is not None}
    if names:
        found.append(_Layer(module, names))
    children = [(name, child) for name, child in module._modules.items() if child is not None and child not in left_out]
    for index, (name, child) in enumerate(children):
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            name = str(index)
        found += _layers(child, prefix if name == "wrapped" else f"{prefix}{name}.", left_out)
    return found


class _Weights:
    """Other parameters for some layers of the host."""

    KEPT = ("_parameters", *lora.KEPT)

    def __init__(self, layers: list[_Layer], state: dict[str, torch.Tensor], info: Any):
        self.layers = [entry.layer for entry in layers]
        wanted = [(entry, name, key) for entry in layers for name, key in entry.names.items()]
        there = [parameter for entry in layers for name in entry.names
                 if (parameter := entry.layer._parameters[name]) is not None]
        for (*_, key), parameter in zip(wanted, there):
            if key not in state or state[key].shape != parameter.shape:
                raise OptionError("image_checkpoint", info.name, "a checkpoint of the same layers",
                                  f"has other layers than the loaded checkpoint ({key})")
            if not state[key].is_floating_point():
                raise OptionError("image_checkpoint", info.name, "a checkpoint in float16, bfloat16 or float32",
                                  f"has weights in {state[key].dtype} ({key}), as quantized files do")
        kinds = [(parameter.dtype, CPU) for parameter in there]
        copies = iter(_packed([state[key] for *_, key in wanted], kinds))
        self.states: list[dict[str, Any]] = []
        """Of each layer, what is exchanged: these parameters, and what the Lora extension has noted of them."""
        self.masters = _Masters()
        for entry in layers:
            parameters: dict[str, nn.Parameter | None] = dict.fromkeys(entry.layer._parameters)
            for name in entry.names:
                parameters[name] = nn.Parameter(next(copies), requires_grad=False)
            self.states.append({"_parameters": parameters})

    def clear(self) -> None:
        """Frees the memory."""
        for kept in (self.layers, self.states, self.masters):
            kept.clear()

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(parameter.nbytes for parameter in _parameters(self.states))

    def leave(self) -> None:
        """Leaves the device."""
        self.masters.leave(list(_parameters(self.states)))

    @contextmanager
    def exchanged(self, beside: bool) -> Iterator[None]:
        """Within the block the layers have these parameters, on the device where theirs were. Afterwards theirs are
        where these are then, as the host may have moved the layers meanwhile; these stay there if ``beside``."""
        theirs, ours = self._taken(), list(_parameters(self.states))
        own = list(_parameters(theirs))
        places = [parameter.device for parameter in own]
        try:
            if not beside:
                self.masters.leave(own)
            self.masters.enter(ours, places)
            try:
                self._put_in(self.states)
                yield
            finally:
                states, places = self._taken(), [parameter.device for parameter in ours]
                self._put_in(theirs)
                self.states = states
        finally:
            try:
                if not beside:
                    self.masters.leave(ours)
            finally:
                self._bring_back(own, places, ours)

    def _bring_back(self, own: list[nn.Parameter], places: list[torch.device], ours: list[nn.Parameter]) -> None:
        """The host's parameters to where they belong, whatever becomes of these."""
        try:
            self.masters.enter(own, places)
        except torch.cuda.OutOfMemoryError:
            try:
                self.masters.leave(ours)
                devices.torch_gc()
            finally:
                self.masters.enter(own, places)

    def _taken(self) -> list[dict[str, Any]]:
        return [{name: vars(layer)[name] for name in self.KEPT if name in vars(layer)} for layer in self.layers]

    def _put_in(self, states: list[dict[str, Any]]) -> None:
        for layer, state in zip(self.layers, states):
            for name in self.KEPT:
                vars(layer).pop(name, None)
            vars(layer).update(state)


def _parameters(states: list[dict[str, Any]]) -> Iterator[nn.Parameter]:
    return (parameter for state in states for parameter in state["_parameters"].values() if parameter is not None)


class _Masters:
    """The copies in memory of parameters that are on the device; one that is as it came there is dropped, not copied.

    Whether it is, tells its place and PyTorch's count of operations in place, as the Lora extension's are.
    """

    def __init__(self) -> None:
        self._kept = WeakIdKeyDictionary()
        """By parameter: its copy, and its mark when it came."""

    def clear(self) -> None:
        self._kept.clear()

    def leave(self, parameters: list[nn.Parameter]) -> None:
        """They are in memory afterwards, or, after an error, all where they were."""
        leaving = [parameter for parameter in parameters if parameter.device != CPU]
        kept = [self._kept.get(parameter, (None, None)) for parameter in leaving]
        changed = [parameter for parameter, (_, mark) in zip(leaving, kept) if mark != _mark(parameter)]
        copies = iter(_packed([parameter.data for parameter in changed],
                              [(parameter.dtype, CPU) for parameter in changed]))
        for parameter, (master, mark) in zip(leaving, kept):
            parameter.data = next(copies) if mark != _mark(parameter) else master
            self._kept.pop(parameter, None)

    def enter(self, parameters: list[nn.Parameter], places: list[torch.device]) -> None:
        """They are in their places afterwards, or, after an error, all where they were."""
        moving = [(parameter, place) for parameter, place in zip(parameters, places)
                  if place not in (CPU, parameter.device)]
        copies = _packed([parameter.data for parameter, _ in moving],
                         [(parameter.dtype, place) for parameter, place in moving])
        self.leave([parameter for parameter, place in zip(parameters, places) if place == CPU])
        for (parameter, _), copy in zip(moving, copies):
            master, parameter.data = parameter.data, copy
            if master.device == CPU:
                self._kept[parameter] = master, _mark(parameter)


def _mark(parameter: nn.Parameter) -> tuple[Any, ...]:
    """Another after every change of a parameter. Where PyTorch does not count them (in inference mode), every time."""
    count = object() if parameter.is_inference() else parameter._version
    return parameter.data_ptr(), parameter.dtype, count


def _packed(tensors: list[torch.Tensor], kinds: list[tuple[torch.dtype, torch.device]]) -> list[torch.Tensor]:
    """Copies in these types on these devices, all of a kind in one block of memory.

    A process keeps the memory of many small pieces when they are freed, for every thread that had some. What is in
    pinned memory is copied to the device in its own time.
    """
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for index, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(index)
    copies = list(tensors)
    for (dtype, device), indices in groups.items():
        sizes = [tensors[index].numel() for index in indices]
        block = _block(sum(sizes), dtype, device)
        for index, part in zip(indices, block.split(sizes)):
            to = part.as_strided(tensors[index].shape, tensors[index].stride())
            copies[index] = to.copy_(tensors[index], non_blocking=device != CPU)
    return copies


def _block(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory; on the CPU pinned, where there is a GPU and as much of it may be pinned."""
    if device == CPU and torch.cuda.is_available():
        with suppress(RuntimeError):
            return torch.empty(size, dtype=dtype, pin_memory=True)
    return torch.empty(size, dtype=dtype, device=device)

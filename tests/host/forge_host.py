"""Doubles of the Forge family: Forge 29be1da7, Forge main and Neo, reForge, Forge Classic.

``forge/`` has what they share, with a few branches by host, and beside it what only one of them has. As in the hosts,
nothing tells cond from uncond in an evaluation but the order of the network's rows: uncond comes first.
"""
from __future__ import annotations

import html
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from . import TREE, Call, Evaluation, Host, importing
from .snapshot import Snapshot

FORGE = TREE.parent / "forge"
HOSTS = ("forge_previous", "forge_main", "reforge", "classic")
"""By the names of our files for them. Forge Neo is Forge main but for what its own directory has: see
`test_webui_forge_neo`."""
NEO = "forge_neo"


def across(everywhere: list[tuple[Any, ...]], in_turn: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Parameters for a host and a case: some cases on every one of `HOSTS`, the others on one each, in turn."""
    return [(host, *case) for case in everywhere for host in HOSTS] + [
        (HOSTS[number % len(HOSTS)], *case) for number, case in enumerate(in_turn)]


@contextmanager
def loaded_forge(kind: str) -> Iterator[ForgeHost]:
    """One of `HOSTS` or `NEO`, freshly imported, and the extension loaded by it; afterwards every module is as it was.
    """
    trees = [FORGE / kind, FORGE / "forge_main"] if kind == NEO else [FORGE / kind]
    with importing(*trees, FORGE, TREE):
        yield ForgeHost(kind)


class FakeInitialModel:
    """What Forge main has in the place of a checkpoint, which it loads between a request's first hooks."""


class ForgeHost(Host):
    """The running double of a host of the Forge family."""

    controlnet = None
    group_norm = torch.nn.GroupNorm

    def __init__(self, kind: str):
        self.kind = kind
        shared = importlib.import_module("modules.shared")
        self.family = shared.host = "forge_main" if kind == NEO else kind
        shared.fits_in_memory = True
        shared.opts.s_min_uncond = 0.0
        shared.opts.enable_quantization = kind == "classic"
        self.external = importlib.import_module("k_diffusion.external")
        if self.family == "forge_main":
            self.external.CompVisDenoiser = importlib.import_module("modules_forge.schedule_linker").ForgeScheduleLinker
        self._import()
        self.base = importlib.import_module("ldm_patched.modules.model_base")
        self.base.Block.reads_modifiers = kind != "reforge"
        self.main_thread = importlib.import_module("modules_forge.main_thread")
        self.animatediff = importlib.import_module("scripts.animatediff")
        self.motion = importlib.import_module("scripts.animatediff_mm")
        self.windows = importlib.import_module("scripts.animatediff_infv2v").uniform
        importlib.import_module("modules_forge.forge_loader")  # the hosts' sd_models does
        self.sd_model_type = importlib.import_module("modules_forge.sd_model").SdModel
        self.model = self.sd_model_type()
        self.sd_models.forge_model_reload = self._load
        if self.family == "forge_main":
            self.shared.sd_model = self.sd_models.model_data.sd_model = FakeInitialModel()
        else:
            self._load()
        self.model_management = importlib.import_module("ldm_patched.modules.model_management")
        self.network = self.model.forge_objects.unet.model
        self.levels: list[list[float]] = []
        """The noise levels of each sampling of the last request, as the host made them."""
        sampler = importlib.import_module("modules.sd_samplers_kdiffusion").KDiffusionSampler
        self._note_levels(sampler)
        self._make_room(sampler)
        self.script_callbacks.on_cfg_after_cfg(self._guided)
        self._start(self.network.watch)

    def _load(self) -> Any:
        self.shared.sd_model = self.sd_models.model_data.sd_model = self.model
        return self.model

    def _note_levels(self, sampler: type) -> None:
        original = sampler.get_sigmas

        def get_sigmas(sampler: Any, p: Any, steps: int) -> torch.Tensor:
            sigmas = original(sampler, p, steps)
            self.levels.append(sigmas.tolist())
            return sigmas

        sampler.get_sigmas = get_sigmas

    def _make_room(self, sampler: type) -> None:
        """The UNet, and what is to be there beside it, are brought before a sampling."""
        original = sampler._run

        def run(sampler: Any, *args: Any) -> torch.Tensor:
            unet = sampler.model_wrap_cfg.inner_model.inner_model.forge_objects.unet
            self.model_management.load_models_gpu([unet, *unet.extra_model_patchers_during_sampling])
            return original(sampler, *args)

        sampler._run = run

    def run_in_page(self, p: Any) -> str:
        """What the page shows under the gallery after a request that was made there."""
        return self.page_after(lambda: (None, "", "", str(self.run(p).shape)))

    def page_after(self, function: Callable[[], tuple[Any, ...]]) -> str:
        """What stands there after a function that gives the page's outputs."""
        def generate(id_task: str) -> Any:
            return self.main_thread.run_and_wait_result(function)

        shown = self.call_queue.wrap_gradio_gpu_call(generate, extra_outputs=[None, "", ""])("task(1)")[-1]
        return html.unescape(shown)

    def run(self, p: Any) -> torch.Tensor:
        self.levels.clear()
        return super().run(p)

    def own_sigmas(self) -> torch.Tensor:
        """The checkpoint's own table."""
        return self.base.ModelSampling(self.network.model_config).sigmas

    @property
    def table(self) -> torch.nn.Module:
        """The noise table that the network looks into."""
        return self.network.predictor if self.family == "forge_main" else self.network.model_sampling

    def unet(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The network as the checkpoint has it."""
        with torch.no_grad():
            return self.network.diffusion_model(x, timesteps, context)

    def _guided(self, params: Any) -> None:
        self.evaluations[-1].out = params.x.clone()

    def guided(self, evaluation: Evaluation, scale: float) -> torch.Tensor:
        """The denoised latent that the network's answers make at a guidance scale; no windows, all in one call."""
        call: Call = evaluation.calls[0]
        uncond, cond = (evaluation.x - eps * evaluation.sigma[:, None, None, None] for eps in call.out.chunk(2))
        return uncond + (cond - uncond) * scale

    def snapshot(self, sampler: Any = None) -> Snapshot:
        snapshot = super().snapshot(sampler)
        unet = self.model.forge_objects_after_applying_lora.unet
        options = unet.model_options
        snapshot.values |= Snapshot({
            "unet": unet, "network": self.network, "table": self.table, "UNetModel": self.network.diffusion_model,
            "model_options": SimpleNamespace(**options, **options["transformer_options"]),
        }).values
        # the memory manager sorts its list anew in every generation: what stays loaded is what counts
        held = {id(entry.model.model): entry.model.model for entry in self.model_management.current_loaded_models}
        for name in ("ldm_patched.modules.model_management", "backend.memory_management"):
            if f"{name}.current_loaded_models" in snapshot.values:
                snapshot.values[f"{name}.current_loaded_models"] = held, held
        return snapshot

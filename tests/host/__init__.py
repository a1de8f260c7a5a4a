"""Doubles of the hosts, to test `ivmixed.webui` against.

``tree/`` is AUTOMATIC1111 1.10 with sd-webui-animatediff and ControlNet, laid out as the host is, a file for each of
theirs; ``forge/`` is what is other on the Forge family (`forge_host`). They carry only what the hosts were seen to do;
networks and prompts are tiny. `loaded` puts one into ``sys.modules`` for the time of a test::

    with loaded() as host:
        clip = host.run(host.clip(options={"form": "II-II"}, frames=32))
        host.evaluations[0].calls        # what reached the network
"""
from __future__ import annotations

import importlib
import importlib.util
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import gradio as gr
import torch
from fastapi import FastAPI
from gradio.context import Context

import ivmixed

from .snapshot import Snapshot

NAME = "IV-mixed"
NAMES = [NAME, f"{NAME} DPM++ 2M", f"{NAME} DPM++ 2M SDE"]
SCRIPT = Path(__file__).parents[2] / "scripts" / "iv_mixed.py"
TREE = Path(__file__).parent / "tree"
ROOTS = ("modules", "ldm", "k_diffusion", "scripts", "modules_forge", "ldm_patched", "backend", "networks",
         "extra_networks_lora", "ivmixed.webui")
INSIDE = tuple(f"{root}." for root in ROOTS)

# what gradio works out anew for each control and each page, and what comes of it is the same
gr.utils.find_user_stack_level = lambda: 1
gr.blocks.DefaultTheme = cache(gr.blocks.DefaultTheme)
gr.themes.ThemeClass._get_theme_css = cache(gr.themes.ThemeClass._get_theme_css)


@contextmanager
def loaded(parameterization: str = "eps", animatediff: bool = True) -> Iterator[Host]:
    """AUTOMATIC1111, freshly imported, and the extension loaded by it; afterwards every module is as it was."""
    with importing(TREE):
        yield Host(parameterization, animatediff)


@contextmanager
def importing(*trees: Path) -> Iterator[None]:
    """Within the block modules come from ``trees``, the first before the others; afterwards all is as it was."""
    logger, threads = logging.getLogger("ivmixed"), torch.get_num_threads()
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    torch.set_num_threads(1)  # the networks are tiny
    before = {name: sys.modules.pop(name) for name in _ours()}
    path, finder = sys.path[:], Finder(trees)
    sys.path[:0] = map(str, trees)
    sys.meta_path.insert(0, finder)
    try:
        # a package with an __init__ is looked for in one place only
        importlib.import_module("modules").__path__[:0] = [str(tree / "modules") for tree in trees if tree != TREE]
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path[:] = path
        for name in _ours():
            del sys.modules[name]
        sys.modules.update(before)
        vars(ivmixed).pop("webui", None)
        if "ivmixed.webui" in before:
            ivmixed.webui = before["ivmixed.webui"]
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
        torch.set_num_threads(threads)


def _ours() -> list[str]:
    """The modules of the hosts and the extension that are loaded."""
    return [name for name in sys.modules if name.startswith(ROOTS) and _is_ours(name)]


def _is_ours(name: str) -> bool:
    return name.startswith(INSIDE) or name in ROOTS


FOUND: dict[tuple[tuple[Path, ...], str], tuple[str, list[str] | None]] = {}


class Finder:
    """Each double runs all modules anew, but each of them is looked for and read once; where it is, `FOUND` says."""

    def __init__(self, trees: tuple[Path, ...]):
        self.trees = trees

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not _is_ours(name):
            return None
        if (self.trees, name) not in FOUND:
            spec = PathFinder.find_spec(name, path, target)
            if spec is None or spec.origin is None:  # not there, or folders without an __init__
                return spec
            FOUND[self.trees, name] = spec.origin, spec.submodule_search_locations
        file, folders = FOUND[self.trees, name]
        return importlib.util.spec_from_file_location(
            name, file, loader=Loader(name, file), submodule_search_locations=None if folders is None else folders[:])


class Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        return _code(fullname, self.path)


@cache
def _code(name: str, file: str) -> CodeType | None:
    return SourceFileLoader(name, file).get_code(name)


@dataclass
class Call:
    """One call of the network."""

    x: torch.Tensor
    t: torch.Tensor
    context: torch.Tensor
    out: torch.Tensor


@dataclass
class Evaluation:
    """One call of the host's denoiser, as extensions see it at its start, and the network calls that it made."""

    step: int
    told: tuple[int, int]
    """(sampling_step, total_sampling_steps), as callbacks are told."""
    progress: tuple[int, int]
    """The same of ``shared.state``, which the page asks."""
    preview: Any
    x: torch.Tensor
    sigma: torch.Tensor
    calls: list[Call] = field(default_factory=list)
    out: torch.Tensor | None = None
    """The denoised rows, cond before uncond."""


class Page(gr.Blocks):
    """The page, without the server that gradio makes for one, and without its calls home."""

    def __init__(self) -> None:
        super().__init__(analytics_enabled=False)

    def __exit__(self, *error: Any) -> None:
        Context.block, Context.root_block = self.parent, None


class Log(logging.Handler):
    """What the extension says to the user."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Host:
    """The running double. Its modules are attributes: ``host.shared``, ``host.sd_samplers``, ``host.a1111``, ..."""

    kind = "a1111"
    """Which of the hosts it is."""
    def __init__(self, parameterization: str, animatediff: bool):
        self._import()
        self.external = importlib.import_module("k_diffusion.external")
        self.apply_alpha_schedule_override = importlib.import_module("modules.sd_models").apply_alpha_schedule_override
        self.animatediff = importlib.import_module("scripts.animatediff") if animatediff else None
        self.motion = importlib.import_module("scripts.animatediff_mm") if animatediff else None
        self.windows = importlib.import_module("scripts.animatediff_infv2v").uniform if animatediff else None
        self.controlnet = importlib.import_module("scripts.controlnet")
        self.group_norm = importlib.import_module("ldm.modules.diffusionmodules.util").GroupNorm32
        ddpm = importlib.import_module("ldm.models.diffusion.ddpm")
        self.model = self.shared.sd_model = self.sd_models.model_data.sd_model = ddpm.LatentDiffusion(parameterization)
        self.script_callbacks.on_cfg_denoised(self._network_is_done)
        self._start(self.model.watch)

    def _import(self) -> None:
        for name in ("api", "call_queue", "devices", "errors", "extra_networks", "infotext_utils", "processing",
                     "progress", "script_callbacks", "scripts", "sd_models", "sd_samplers", "shared", "ui"):
            setattr(self, name, importlib.import_module(f"modules.{name}"))
        self.encode = importlib.import_module("modules.prompt_parser").encode

    def _start(self, watch: Any) -> None:
        """``watch`` is what stands around the network's calls."""
        watch.call = self._network_call
        self.evaluations: list[Evaluation] = []
        self.on_evaluated: list[Callable[[int], None]] = []
        """Called with the number of every evaluation at its end, from 1."""
        self.fail_at: tuple[int, int, BaseException] | None = None
        """Evaluation and network call in it, both from 1, and what is raised there."""
        self.script_callbacks.on_cfg_denoiser(self._evaluation_starts)
        self.script_callbacks.on_cfg_after_cfg(lambda params: [f(len(self.evaluations)) for f in self.on_evaluated])
        self.load_scripts()
        self.log = Log()
        logging.getLogger("ivmixed").addHandler(self.log)
        self.sampler = importlib.import_module("ivmixed.webui.sampler")
        for name in ("page.panel", "page.motion_panel", "builtin.output"):
            setattr(self, name.split(".")[1], self.module(name))
        self.built_in = importlib.import_module("ivmixed.webui.builtin.generation")

    # the page ---------------------------------------------------------------------------------------------------------

    def load_scripts(self) -> None:
        """What the host does at start and at "Reload UI": it runs the extension's script and draws its panels."""
        self.script_callbacks.script_unloaded_callback()
        for name in ("app_started", "before_ui", "ui_settings", "ui_tabs"):
            self.script_callbacks.callback_map[name].clear()
        plot = TREE / "scripts" / "xyz_grid.py"
        self.plot, module = self._run_file("xyz_grid", plot), self._run_file("iv_mixed", SCRIPT)
        selectable = [self.plot, *(self._run_file(name, TREE / "scripts" / f"{name}.py")
                                   for name in ("prompt_matrix", "prompts_from_file", "loopback"))]
        self.scripts.scripts_data[:] = [SimpleNamespace(path=str(SCRIPT), module=module),
                                        SimpleNamespace(path=str(plot), module=self.plot)]
        self.script_callbacks.before_ui_callback()
        self.script_callbacks.ui_settings_callback()
        ours = [value for value in vars(module).values()
                if isinstance(value, type) and issubclass(value, self.scripts.Script)]
        theirs = [] if self.controlnet is None else [self.controlnet.ControlNetScript]
        if self.animatediff is not None:
            theirs.insert(0, self.animatediff.AnimateDiffScript)
        self.runner = self.scripts.ScriptRunner(kind() for kind in theirs + ours + [file.Script for file in selectable])
        self.scripts.scripts_txt2img = self.scripts.scripts_img2img = self.runner
        vars(self).pop("page", None)
        with Page() as self.shared.demo:
            for script in self.runner.alwayson_scripts:
                self.runner.create_script_ui(script)
        self.runner.setup_selectable(arguments=2)
        self.defaults = [getattr(control, "value", None) for control in self.runner.inputs]

    @cached_property
    def page(self) -> Page:
        """The whole page, built where a test looks at it. A request needs no more than the panels, and the tabs take
        longer than its clip."""
        self.runner.inputs, self.runner.infotext_fields = [None], []
        self.shared.demo = page = self.ui.create_ui(self.runner, Page)
        self.runner.setup_selectable(arguments=2)
        with Page():  # the API calls ui() again to learn the defaults
            again = [script.ui(script.is_img2img) or [] for script in self.runner.alwayson_scripts]
        values = [getattr(control, "value", None) for control in itertools.chain(*again)]
        self.defaults[1:1 + len(values)] = values
        return page

    @staticmethod
    def _run_file(name: str, path: Path) -> Any:
        spec = importlib.util.spec_from_file_location(name, path, loader=Loader(name, str(path)))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def start(self, api: bool = True) -> FastAPI:
        """What the host does with its server: its own routes, if asked for them, then those of extensions."""
        app = FastAPI()
        if api:
            self.api.Api(app)
        self.progress.setup_progress_api(app)
        self.script_callbacks.app_started_callback(self.shared.demo, app)
        return app

    def module(self, name: str) -> Any:
        """A file of the extension."""
        return importlib.import_module(f"ivmixed.webui.{name}")

    def script(self, title: str) -> Any:
        return next(script for script in self.runner.alwayson_scripts if script.title() == title)

    def arguments(self, given: dict[str, list[Any]]) -> tuple[Any, ...]:
        """The scripts' arguments as the API makes them: the defaults, overwritten by what is given."""
        values = list(self.defaults)
        for title, arguments in given.items():
            script = self.script(title)
            for index, value in enumerate(arguments[:script.args_to - script.args_from]):
                values[script.args_from + index] = value
        return tuple(values)

    # requests ---------------------------------------------------------------------------------------------------------

    def clip(self, sampler: str = NAME, *, options: Any = None, frames: int = 16, context: int = 16,
             version: str = "v3", prompt_map: dict[int, Any] | None = None, **fields: Any) -> Any:
        """A request with AnimateDiff on. ``options``: the API's arguments of the extension, or its one object."""
        params = self.animatediff.AnimateDiffProcess(
            model=version, video_length=frames, batch_size=context, overlap=context // 4, prompt_map=prompt_map or {})
        return self.still(sampler, options=options, animatediff=params, **fields)

    def still(self, sampler: str = NAME, *, options: Any = None, animatediff: Any = None, controls: Any = None,
              prompt: Any = "a photo of an astronaut", negative_prompt: Any = "blurry", **fields: Any) -> Any:
        """A request without AnimateDiff.

        A prompt is a text, a text with its length in prompts, a function from the row to either, or a list of these
        with the last step of each.
        """
        given: dict[str, list[Any]] = {} if self.controlnet is None else {"ControlNet": [controls]}
        if self.animatediff is not None:
            given["AnimateDiff"] = [animatediff]
        if options is not None:
            given[NAME] = options if isinstance(options, list) else [options]
        return self.processing.StableDiffusionProcessing(
            sd_model=self.shared.sd_model, is_api=True, sampler_name=sampler, scripts=self.runner,
            script_args=self.arguments(given), prompt=self._rows(prompt),
            negative_prompt=self._rows(negative_prompt), **fields)

    def _rows(self, prompt: Any) -> Callable[[int], list[Any]]:
        schedule = prompt if isinstance(prompt, list) else [(10**6, prompt)]

        def tensor(text: Any, row: int) -> torch.Tensor:
            text = text(row) if callable(text) else text
            return self.encode(*text) if isinstance(text, tuple) else self.encode(text)

        return lambda count: [[(last, tensor(text, row)) for last, text in schedule] for row in range(count)]

    def run(self, p: Any) -> torch.Tensor:
        """The latents of a request."""
        self.evaluations.clear()
        self.shared.state.begin("a request")
        try:
            self.processing.process_images(p)
            return p.latents
        except BaseException:
            p.close()  # as the hosts do, after success too
            raise
        finally:
            self.shared.state.end()
            self.shared.total_tqdm.clear()

    def answer(self, p: Any, script: str = "", *arguments: Any) -> Any:
        """What the API answers with, by a selectable script if one is named: text, or pictures that it will encode."""
        self.evaluations.clear()
        self.shared.state.begin("a request")
        try:
            if not script:
                return self.processing.process_images(p)
            number, chosen = next((number, chosen) for number, chosen in enumerate(self.runner.selectable_scripts, 1)
                                  if chosen.title() == script)
            p.script_args = [number, *p.script_args[1:]]
            p.script_args[chosen.args_from:chosen.args_to] = arguments
            return self.runner.run(p, *p.script_args)
        finally:
            self.shared.state.end()
            self.shared.total_tqdm.clear()

    # the plain model --------------------------------------------------------------------------------------------------

    def unet(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The UNet, to be called between requests, when no motion is in it."""
        assert self.motion is None or not self.motion.AnimateDiffMM.mm_injected
        with torch.no_grad():
            return self.model.model.diffusion_model(x, timesteps=timesteps, context=context)

    def denoiser(self, apply_model: Callable | None = None) -> Any:
        """The host's denoiser on the table that the checkpoint has now; ``apply_model``: in place of the network."""
        kind = self.external.CompVisVDenoiser if self.model.parameterization == "v" else self.external.CompVisDenoiser
        denoiser = kind(self.model, quantize=self.shared.opts.enable_quantization)
        if apply_model is not None:
            del denoiser.inner_model
            denoiser.inner_model = SimpleNamespace(apply_model=apply_model)
        return denoiser

    def scaled(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """What a denoiser gives to the network for latents at a level."""
        return x * (1 / (sigma[:, None, None, None] ** 2 + 1) ** 0.5)

    # what is seen -----------------------------------------------------------------------------------------------------

    def _evaluation_starts(self, params: Any) -> None:
        state = self.shared.state
        self.evaluations.append(Evaluation(
            params.denoiser.step, (params.sampling_step, params.total_sampling_steps),
            (state.sampling_step, state.sampling_steps), state.current_latent, params.x, params.sigma))

    def _network_call(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, run: Callable) -> torch.Tensor:
        calls = self.evaluations[-1].calls
        if self.fail_at is not None and (len(self.evaluations), len(calls) + 1) == self.fail_at[:2]:
            raise self.fail_at[2]
        calls.append(Call(x, t, context, run()))
        return calls[-1].out

    def _network_is_done(self, params: Any) -> None:
        self.evaluations[-1].out = params.x.clone()

    def snapshot(self, sampler: Any = None) -> Snapshot:
        """All of the host that a generation could change, and a sampler's denoiser with its noise table."""
        shared = self.shared
        parts = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ROOTS}
        parts |= {"state": shared.state, "opts": shared.opts, "GroupNorm32": self.group_norm}
        parts |= {f"sd_model.{name}".rstrip("."): module for name, module in self.model.named_modules()}
        if self.motion is not None:
            extension = self.motion.mm_animatediff
            parts |= {"AnimateDiffMM": type(extension), "mm_animatediff": extension}
            if extension.mm is not None:
                parts |= {f"mm.{name}".rstrip("."): module for name, module in extension.mm.named_modules()}
        if sampler is not None:
            parts |= {"sampler.model_wrap_cfg": sampler.model_wrap_cfg, "sampler.model_wrap": sampler.model_wrap}
        return Snapshot(parts)

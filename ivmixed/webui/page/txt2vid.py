"""The tab txt2vid: a clip from a prompt in one place, and beside it the one that the video model makes alone.

It is made of the host's own parts where there are any: the prompts and buttons over it, the queue, the progress bar,
the paste buttons. What it makes is in `clip_request`.
"""
from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import gradio as gr
from PIL import Image

from modules import infotext_utils, scripts, sd_samplers, shared
from modules.call_queue import wrap_gradio_gpu_call
from modules.infotext_utils import ParamBinding, PasteField
from modules.ui_common import plaintext_to_html
from modules.ui_tempdir import register_tmp_file
from modules.ui_toprow import Toprow

from ...clips.encode import MediaError
from ...kinds import Number, Text, Whole
from ...motion import MotionError, MotionOptions, TravelError
from ...options import Option, OptionSet, declare
from ...untrusted import Refusal
from ...untrusted import shown as bounded
from .. import MOTION, NAME, hosts, log, preview, scratch
from ..builtin import generation
from ..errors import RefusedError
from ..extensions import animatediff
from . import clip_request, form, live, motion_panel
from .clip_request import ClipResult, ClipSpec
from .motion_panel import Source
from .panel import Panel, from_arguments

TAB = "ivmixed_txt2vid"
"""The beginning of all element ids, and the tab's name among the host's paste buttons."""
BUILT_IN, EXTENSION = "Built-in motion", "AnimateDiff extension"
LAST = 12
"""How many clips the strip has."""
POSTER = 160, 160
"""A clip is at most this large there, in pixels."""


@dataclass(frozen=True)
class HostSettings(OptionSet):
    """The host's own settings that the tab has; their labels are the host's in the infotext. Raises OptionError."""

    word = "setting"

    sampler: str = declare(Text(), NAME, "Sampler", title="Sampling method", help="")
    scheduler: str = declare(Text(), preview.AUTOMATIC, "Schedule type", help="")
    steps: int = declare(Whole(1, preview.MOST_STEPS, slider=(1, 150)), 25, "Steps", title="Sampling steps", help="")
    width: int = declare(Whole(8, 8192, step=8, slider=(64, 2048)), 512, "Size-1", title="Width", help="")
    height: int = declare(Whole(8, 8192, step=8, slider=(64, 2048)), 512, "Size-2", title="Height", help="")
    cfg_scale: float = declare(Number(0, 100, step=0.5, slider=(1, 30)), 7.5, "CFG scale", title="CFG Scale", help="")
    seed: int = declare(  # a browser's numbers are whole so far
        Whole(-1, 2**53), -1, "Seed", title="Seed (-1: random)", help="")
    denoising_strength: float = declare(
        Number(0, 1, step=0.01), 0.6, "Denoising strength",
        help="Where the clip starts from another: how much of that is made anew")


MEASURES = {
    "sharpness": "Sharpness (more is sharper, or noisier)",
    "flicker": "Flicker (grey levels from frame to frame)",
    "motion": "Motion (pixels a frame, where it is fastest)",
}


class Shown(NamedTuple):
    """A result as the page shows it, now and from the strip."""

    page: str
    infotext: str
    poster: Path
    label: str
    whole: tuple[Path, ...]
    """The frames of the last of its clips, as exactly as there are files of them."""
    fps: float
    name: str
    """What that clip is called beside the page: there may be two."""


def build() -> list[tuple[gr.Blocks, str, str]]:
    """The host's callback for tabs: what it puts among its own."""
    with gr.Blocks(analytics_enabled=False) as page:
        toprow = Toprow(is_img2img=False, is_compact=False, id_part=TAB)  # compact, it makes its parts one by one
        with gr.Row(equal_height=False, elem_id=f"{TAB}_columns"):
            with gr.Column(elem_id=f"{TAB}_settings"):
                settings = _Settings()
            with gr.Column(variant="panel", elem_id=f"{TAB}_results"):
                results = _Results()
        settings.connect(toprow)
        results.connect_starts(settings)
        results.connect([toprow.prompt, toprow.negative_prompt, toprow.ui_styles.dropdown, *settings.components],
                        settings.read, toprow)
    return [(page, hosts.find().tab_title("txt2vid"), TAB)]


class _Settings:
    """The left side."""

    def __init__(self) -> None:
        self.host = _host_settings()
        sources = {EXTENSION: ANIMATEDIFF} if _has_animatediff() else {}
        sources[BUILT_IN] = motion_panel.BUILT_IN
        first = next((name for name, source in sources.items() if source.names()), BUILT_IN)
        self.by = gr.Radio(list(sources), value=first, label="Motion comes from", visible=len(sources) > 1,
                           elem_id=f"{TAB}_by")
        self.by.do_not_save_to_config = True  # else it would stay with a source that has no modules any more
        self.motion = motion_panel.components(
            lambda name: f"{TAB}_motion_{name}", self.by, sources,
            more=lambda: self.host.draw([HostSettings.option("denoising_strength")]))
        self.panel = Panel(lambda name: f"{TAB}_ivmixed_{name}", opened=True)
        self.components = [*self.host.components, self.by, *self.motion.components, *self.panel.components]

    def read(self, prompt: str, negative_prompt: str, styles: list[str], *values: Any) -> ClipSpec:
        """The values of the prompts and of ``components``. Raises OptionError."""
        own, (by, *others) = values[:len(self.host.components)], values[len(self.host.components):]
        split = len(self.motion.components)
        return ClipSpec(
            prompt=prompt, negative_prompt=negative_prompt, styles=styles, by_extension=by == EXTENSION,
            motion=form.of_values(MotionOptions, others[:split]), options=from_arguments(others[split:]),
            **vars(form.of_values(HostSettings, own)))

    def connect(self, toprow: Any) -> None:
        """The panel follows the settings, and infotext is pasted into all."""
        host = dict(zip((option.name for option in HostSettings.declared()), self.host.components))
        motion = dict(zip((option.name for option in form.ordered(MotionOptions)), self.motion.components))
        watched = {name: component for name, component in host.items() if name in live.WATCHED}
        names = ("frames", "init_video", "free_init")
        live.connect(self.panel, {**watched, **{name: motion[name] for name in names}})
        infotext_utils.add_paste_fields(TAB, None, [
            PasteField(toprow.prompt, "Prompt"), PasteField(toprow.negative_prompt, "Negative prompt"),
            *self.host.fields, PasteField(self.by, lambda params: BUILT_IN if MOTION in params else None),
            *self.motion.fields, *self.panel.fields])
        infotext_utils.register_paste_params_button(ParamBinding(
            paste_button=toprow.paste, tabname=TAB, source_text_component=toprow.prompt, source_image_component=None))


def _host_settings() -> form.Form:
    samplers, schedulers = sd_samplers.visible_sampler_names(), list(preview.schedulers())

    def sampler(option: Option, shared: dict[str, Any]) -> list[Any]:
        return [gr.Dropdown(samplers, value=NAME if NAME in samplers else samplers[0], **shared)]

    def scheduler(option: Option, shared: dict[str, Any]) -> list[Any]:
        return [gr.Dropdown(schedulers, value=schedulers[0], visible=len(schedulers) > 1, **shared)]

    pasted = {name: getattr(sd_samplers, f"get_{name}_from_infotext", None) for name in ("sampler", "scheduler")}
    made = form.Form(
        HostSettings, "", lambda name: f"{TAB}_{'sampling' if name == 'sampler' else name}", lambda params: True,
        resets=False, pasted={name: read for name, read in pasted.items() if read},
        drawn={"sampler": sampler, "scheduler": scheduler,
               "seed": lambda option, shared: [gr.Number(option.default, precision=0, **shared)]})
    first, second, steps, *others = HostSettings.declared()
    with gr.Row():
        made.draw([first, second])
    made.draw([steps])
    for pair in (others[:2], others[2:4]):
        with gr.Row():
            made.draw(pair)
    return made


def _usable_by_animatediff() -> list[str]:
    """Of the motion modules those in AnimateDiff's own folder."""
    folder = animatediff.folder()
    return sorted(name for name in generation.files(folder) if (folder / name).is_file())


ANIMATEDIFF = Source(_usable_by_animatediff, animatediff.folder, starts=False)


def _has_animatediff() -> bool:
    """The AnimateDiff extension is there and has an effect."""
    titles = {script.title() for script in scripts.scripts_txt2img.alwayson_scripts}
    return hosts.find().animatediff_acts and animatediff.TITLE in titles


class _Results:
    """The right side."""

    def __init__(self) -> None:
        self.message = gr.HTML("", elem_id=f"{TAB}_message")
        self.compare = gr.Button("Compare with plain", size="sm", elem_id=f"{TAB}_compare")
        with gr.Row(visible=False, elem_id=f"{TAB}_of_clip") as self.of_clip:  # there is no clip yet
            self.restart, self.extend, self.upscale, self.send = (
                gr.Button(text, size="sm", min_width=120, elem_id=f"{TAB}_{name}") for name, text in (
                    ("restart", "Start from this clip"), ("extend", "Extend"), ("upscale", "Upscale"),
                    ("send", "Send to txt2img")))
        with gr.Column(elem_id=f"{TAB}_clip_frame"), gr.Column(elem_id=f"{TAB}_clip_box"):
            self.clip = gr.HTML(EMPTY, elem_id=f"{TAB}_clip")
        self.log = gr.HTML("", elem_id=f"{TAB}_log")
        self.strip = gr.Gallery(label="Last clips", columns=4, height="auto", object_fit="contain", allow_preview=False,
                                elem_id=f"{TAB}_strip", visible=False)
        self.infotext = gr.Textbox("", visible=False, elem_id=f"{TAB}_infotext")
        self.shown = gr.State([])

    def connect(self, components: list[Any], read: Any, toprow: Any) -> None:
        """What the buttons do; ``read`` makes the wish of the values of ``components``."""
        task = gr.Textbox(visible=False)  # the page puts the id of the task there
        inputs = [task, self.shown, *components]
        outputs = [self.message, self.clip, self.infotext, self.strip, self.shown, self.of_clip, self.log]
        for event, make in ((toprow.submit.click, clip_request.make), (toprow.prompt.submit, clip_request.make),
                            (self.compare.click, clip_request.compare)):
            def generate(id_task: str, shown: list[Shown], *values: Any, make: Any = make) -> list[Any]:
                return generated(lambda: make(read(*values)), shown)

            event(wrap_gradio_gpu_call(generate, extra_outputs=[gr.update()] * 6), inputs=inputs, outputs=outputs,
                  _js=f"(...values) => ivMixedSubmit('{TAB}', values.slice(0, {len(inputs)}))", show_progress=False)
        self.strip.select(choose, inputs=[self.shown], outputs=[self.clip, self.infotext], show_progress="hidden",
                          queue=False)
        infotext_utils.register_paste_params_button(ParamBinding(
            paste_button=self.send, tabname="txt2img", source_text_component=self.infotext,
            source_image_component=None))

    def connect_starts(self, settings: _Settings) -> None:
        """The buttons that put the shown clip into the settings of the next one."""
        host = dict(zip((option.name for option in HostSettings.declared()), settings.host.components))
        motion = dict(zip((option.name for option in form.ordered(MotionOptions)), settings.motion.components))
        outputs = [self.message, settings.by, settings.motion.start, motion["init_video"], motion["extend"],
                   motion["frames"], host["denoising_strength"], host["width"], host["height"]]
        for how, button in (("restart", self.restart), ("extend", self.extend), ("upscale", self.upscale)):
            button.click(partial(start_from, how), show_progress="hidden", queue=False, outputs=outputs, inputs=[
                self.shown, self.infotext, motion["frames"], host["width"], host["height"]])


EMPTY = '<p class="ivmixed-detail ivmixed-empty">The clip will be here.</p>'


_messages = itertools.count()

KEPT = 4
"""Frames by which a clip is extended: a quarter of the usual context, as windows overlap."""
LARGEST = 8192


def start_from(how: str, shown: list[Shown], infotext: str, frames: int, width: int, height: int) -> list[Any]:
    """What the page shows after one of the buttons that start the next clip from the shown one, see
    `_Results.connect_starts`.

    "restart": from all of it; "extend": from its last frames, which stay, the others from noise; "upscale": from all
    of it at twice the size, as hires fix does with a picture.
    """
    entry = next((entry for entry in shown if entry.infotext == infotext), None)
    try:
        if entry is None:
            raise MediaError("this clip is not among the last ones any more: press Generate first")
        file = _whole(entry)
    except (MediaError, OSError) as error:
        words = html.escape(str(error).removeprefix("IV-mixed: "))
        return [f'<p role="alert" class="ivmixed-error">{words}</p>', *[gr.update()] * 8]
    kept = min(KEPT, max(1, frames // 4))
    extend, strength, size = 0, gr.update(), (width, height)
    said = f"The next clip starts from {entry.name}: the denoising strength says how much of it is made anew."
    if how == "extend":
        extend, strength = kept, 1.0
        said = (f"The next clip begins with the last {kept} frame{'s' * (kept != 1)} of {entry.name}, which stay, and "
                "goes on from there.")
    elif how == "upscale":
        size, strength = (min(2 * width, LARGEST), min(2 * height, LARGEST)), 0.5
        said = f"The next clip is {entry.name} at {size[0]}x{size[1]} pixels, half of it made anew."
    message = f'<p role="status">{said} Press Generate.</p>'
    return [message, BUILT_IN, gr.update(open=True), file, extend, frames, strength, *size]


def _whole(entry: Shown) -> str:
    """A file of the clip, without losses where its frames are there. Raises MediaError, OSError."""
    if not all(file.is_file() for file in entry.whole) or not entry.whole:
        raise MediaError("the files of this clip are gone")
    if len(entry.whole) == 1:
        return str(entry.whole[0])
    pictures = [Image.open(file, formats=["PNG"]).convert("RGB") for file in entry.whole]
    file = scratch.folder() / "clip.png"
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=1000 / entry.fps, loop=0)
    return str(file)


def generated(make: Callable[[], list[ClipResult]], shown: list[Shown]) -> list[Any]:
    """What the page shows after a generation: why there is no clip, and `show`.

    Of what is refused the log has one line: the host would write down all that it was called with.
    """
    try:
        made = make()
    except Exception as error:
        words = str(error).removeprefix("IV-mixed: ")
        if isinstance(error, (Refusal, MotionError, TravelError, RefusedError)) or words != str(error):
            log.warning(f"no clip: {words}")
        else:
            log.error("no clip", exc_info=error)
            words = f"the WebUI stopped with {type(error).__name__} ({bounded(words)}); its log says more."
        # no two are the same, so that the page sees each come
        message = (f'<p role="alert" class="ivmixed-error ivmixed-message" data-message="{next(_messages)}">'
                   f"No clip was made: {html.escape(words)}</p>")
        return [message, *[gr.update()] * 5, ""]
    return ["", *show(made, shown)]


def show(made: Sequence[ClipResult], shown: list[Shown]) -> list[Any]:
    """What the page shows of finished clips: the clips, their infotext, the strip of the last ones, the buttons for the
    shown one, what is to be said."""
    last = made[-1]
    for clip in made:
        if clip.file is not None:
            register_tmp_file(shared.demo, str(clip.file))
    page = _figures(made)
    try:
        shown = [Shown(page, last.infotext, _poster(made), f"seed {last.seed}", tuple(last.whole), last.fps,
                       "this one" if len(made) == 1 else f"the {last.title} clip"), *shown][:LAST]
    except OSError as error:
        log.warning(f"the clip is not among the last ones: its poster cannot be written ({error})")
    there = [entry for entry in shown if entry.poster.is_file()]
    for entry in there:
        register_tmp_file(shared.demo, str(entry.poster))
    said = "".join(dict.fromkeys(clip.comments for clip in made))
    strip = gr.update(value=[(str(entry.poster), entry.label) for entry in there], visible=bool(there))
    return [page, last.infotext, strip, there, gr.update(visible=True), plaintext_to_html(said, classname="comments")]


def _poster(made: Sequence[ClipResult]) -> Path:
    """A file with the first frames, side by side. Raises OSError.

    A picture that is in no file the host would put into its folder for temporary ones, which need not be there.
    """
    pictures = [clip.poster.copy() for clip in made]
    for picture in pictures:
        picture.thumbnail(POSTER)
    poster = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    for k, picture in enumerate(pictures):
        poster.paste(picture, (k * picture.width, 0))
    file = scratch.folder() / "poster.png"
    poster.save(file)
    return file


def choose(shown: list[Shown], event: gr.SelectData) -> list[str]:
    """A clip of the strip was pressed: the clips, their infotext."""
    entry = shown[event.index]
    return [entry.page, entry.infotext]


def _figures(made: Sequence[ClipResult]) -> str:
    figures = "".join(_figure(clip) for clip in made)
    return (f'<div class="ivmixed-clips">{figures}</div>{_table(made)}<details><summary>Generation parameters</summary>'
            f"{plaintext_to_html(made[-1].infotext)}</details>")


def _figure(clip: ClipResult) -> str:
    text = html.escape(clip.title + (", interrupted" if clip.interrupted else ""))
    if clip.file is None:
        return f"<figure><figcaption>{text}: no file could be written to play it</figcaption></figure>"
    source = f"file={quote(clip.file.as_posix(), safe='/:')}"
    tag = (f'<img src="{source}" alt="{text}">' if clip.file.suffix in (".gif", ".webp") else
           f'<video src="{source}" aria-label="{text}" autoplay loop muted playsinline controls></video>')
    return f'<figure>{tag}<figcaption>{text}</figcaption></figure>'


def _table(made: Sequence[ClipResult]) -> str:
    rows = {"Evaluations": [_evaluations(clip) for clip in made],
            "Seconds": [f"{clip.seconds:.1f}" for clip in made]}
    for name, words in MEASURES.items():
        if any(name in clip.measures for clip in made):
            rows[words] = [_number(clip.measures.get(name)) for clip in made]
    head = "".join(f'<th scope="col">{html.escape(clip.title)}</th>' for clip in made)
    body = "".join(f'<tr><th scope="row">{words}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
                   for words, cells in rows.items())
    return f'<table class="ivmixed-table"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'


def _evaluations(clip: ClipResult) -> str:
    if clip.evaluations is None:
        return "-"
    return f"{clip.evaluations} of {clip.planned}" if clip.interrupted else str(clip.evaluations)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"

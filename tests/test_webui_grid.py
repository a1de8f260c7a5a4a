"""The X/Y/Z plot, the settings and the presets' place in the infotext; on a double of the host (tests/host)."""
import logging

import pytest
import torch

from ivmixed import PRESETS, OptionError
from ivmixed.motion import MotionControls
from ivmixed.webui.options import OPTIONS, WebUIOptions

from .attention import give_attention
from .host import NAME, loaded


@pytest.fixture
def host():
    with loaded() as host:
        yield host
        assert host.errors.reports == []


def infotext(p):
    return {key: value for key, value in p.extra_generation_params.items() if key.startswith(NAME)}


def grid(host, *axes, options=None):
    """(options in the infotext, latents) of every cell."""
    p = host.clip(options=options, frames=4, context=4)
    cells = []
    process = host.plot.process_images
    host.plot.process_images = lambda cell: cells.append(infotext_after(process, cell)) or cells[-1][1]
    try:
        host.plot.run(p, *axes)
    finally:
        host.plot.process_images = process
    assert host.module("request").of(p).cell == {}
    return cells


def infotext_after(process, cell):
    process(cell)
    return infotext(cell), cell.latents


# --- the plot

def test_there_is_an_axis_for_every_option_and_for_presets(host):
    labels = [axis.label for axis in host.plot.axis_options]
    own = [f"[IV-mixed] {option.label.removeprefix('IV-mixed ')}" for option in (*OPTIONS, *MotionControls.declared())]
    assert labels == ["Nothing", "Steps", "[IV-mixed] preset", *own]
    host.module("page.xyz").add_axes()
    assert [axis.label for axis in host.plot.axis_options] == labels


TEXTS = {"form": ["IV-IV", "RV-IV"], "reused": ["prediction"],
         "schedule_match": ["sigma", "timestep"], "above_sigma_max": ["clamp", "skip"],
         "interval": "0 to 50, 20 to 100", "rho": "1, 7", "loop_order": ["denoise-first", "noise-first"],
         "z_pattern": ["even", "last"], "guidance_rescale": "0, 0.5",
         "gamma_go": "6 to 2, 4", "gamma_back": "0=6 100=2, 3", "gamma_image_go": "6 to 2, 4",
         "gamma_image_back": "0=6 100=2, 3", "image_size": "64x32, 32x32", "image_resize": ["change", "area"],
         "image_prompt": "a castle, a <b>", "image_negative_prompt": "noise", "image_checkpoint": [""],
         "controlnet": ["both", "image"], "finish_by": ["timesteps", "steps"],
         "image_attention": ["own", "first"], "finish_smoothing": "0, 50"}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_cell_is_the_clip_made_with_that_option(host, option):
    if option.name == "image_attention":
        give_attention(host.model.model.diffusion_model)
    text = TEXTS.get(option.name, "0-100 (+50)")
    axis = f"[IV-mixed] {option.label.removeprefix('IV-mixed ')}"
    values = host.plot.values_of(host.plot.axis(axis), text)
    others = {"gamma_back": [5.0, 3.0]} if option.name != "gamma_back" else {}
    cells = grid(host, axis, text, options=others)
    assert len(cells) == len(values) >= 1
    for value, (said, latents) in zip(values, cells):
        alone = host.clip(options={**others, option.name: value}, frames=4, context=4)
        assert torch.equal(host.run(alone), latents)
        assert said == infotext(alone)


def test_two_axes_and_the_panel_together(host):
    cells = grid(host, "[IV-mixed] gamma go", "6, 4", "[IV-mixed] form", ["IV-IV", "II-II"], options={"rho": 3})
    assert [WebUIOptions.from_infotext(said) for said, _ in cells] == [
        WebUIOptions(rho=3, gamma_go=go, form=form) for form in ("IV-IV", "II-II") for go in (6, 4)]


def test_presets_are_an_axis(host):
    host.module("presets").save("mine", WebUIOptions(gamma_go=6), 5.0)
    p = host.clip(frames=4, context=4)
    cells = host.plot.run(p, "[IV-mixed] preset", ["paper-videocrafter", "mine", "plain"])
    assert [cell.cfg_scale for cell, _ in cells] == [9.0, 5.0, 7.0]
    for (cell, _), options, scale in zip(cells, (PRESETS["paper-videocrafter"].options, WebUIOptions(gamma_go=6),
                                                    PRESETS["plain"].options), (9.0, 5.0, 7.0)):
        alone = host.clip(options=options.to_dict(), frames=4, context=4, cfg_scale=scale)
        assert torch.equal(host.run(alone), cell.latents)


@pytest.mark.parametrize("label, text", [
    ("gamma go", "4, 31"), ("gamma go", "much"), ("z percent", "0-150 (+50)"), ("interval", "60 to 20"),
    ("form", ["XX-XX"]), ("preset", ["none such"]),
])
def test_a_wrong_value_is_refused_before_the_first_cell(host, label, text):
    host.evaluations.clear()
    with pytest.raises(OptionError) as error:
        host.plot.run(host.clip(frames=4, context=4), f"[IV-mixed] {label}", text)
    assert error.value.field == label.replace(" ", "_")
    assert host.evaluations == []


def test_labels_of_cells(host):
    axis = host.plot.axis("[IV-mixed] gamma go")
    assert [axis.format_value(None, axis, value) for value in host.plot.values_of(axis, "6 to 2, 4")] == [
        "[IV-mixed] gamma go: 6 to 2", "[IV-mixed] gamma go: 4"]


def test_the_plot_ends_with_its_cells(host):
    before = host.run(host.clip(frames=4, context=4))
    grid(host, "[IV-mixed] gamma go", "9, 2")
    assert torch.equal(host.run(host.clip(frames=4, context=4)), before)


# --- presets in the infotext

def test_the_infotext_names_the_preset(host):
    host.module("presets").save("mine", WebUIOptions(gamma_go=6), 5.0)
    for options, name in ((WebUIOptions(), None), (PRESETS["plain"].options, "plain"),
                          (WebUIOptions(gamma_go=6), "mine"), (WebUIOptions(gamma_go=5), None)):
        p = host.clip(options=options.to_dict(), frames=4, context=4)
        host.run(p)
        assert p.extra_generation_params.get("IV-mixed preset") == name


# --- settings

def test_a_closed_panel_runs_the_preset_of_the_settings(host):
    info = host.shared.settings_page["ivmixed_closed"]
    assert info.component_args()["choices"] == [
        "paper", "fast", "balanced", "quality", "paper-videocrafter", "distilled", "plain"]
    assert (info.default, info.section) == ("paper", ("ivmixed", "IV-mixed"))
    published = host.run(host.clip(frames=4, context=4))
    assert torch.equal(host.run(host.clip(options=WebUIOptions().to_dict(), frames=4, context=4)), published)
    host.shared.opts.set("ivmixed_closed", "paper-videocrafter")
    p = host.clip(frames=4, context=4)
    clip = host.run(p)
    expected = host.run(host.clip(options={"z_percent": 66.7}, frames=4, context=4))
    assert torch.equal(clip, expected) and not torch.equal(clip, published)
    assert p.extra_generation_params["IV-mixed z percent"] == "66.7"


def test_pasting_ticks_the_panel_where_a_closed_one_would_make_another_clip(host):
    is_open = host.module("page.panel")._is_open
    other, default = {"Sampler": NAME, "IV-mixed z percent": "66.7"}, {"Sampler": NAME}
    assert (is_open(other), is_open(default)) == (True, False)
    host.shared.opts.set("ivmixed_closed", "paper-videocrafter")
    assert (is_open(other), is_open(default)) == (False, True)


def test_a_preset_of_the_settings_that_is_gone_is_told(host):
    host.shared.opts.set("ivmixed_closed", "deleted")
    p = host.clip(frames=4, context=4)
    host.run(p)
    assert any("'deleted' of the settings is not there any more" in line for line in host.log.lines)
    assert WebUIOptions.from_infotext(p.extra_generation_params) == WebUIOptions()


def test_the_console_says_what_the_settings_allow(host):
    logger = logging.getLogger("ivmixed")
    said = []
    for level in ("warnings", "nothing", "everything"):
        host.shared.opts.set("ivmixed_log", level)
        host.log.lines.clear()
        logger.info("info")
        logger.warning("warning")
        said.append(host.log.lines[:])
    assert said == [["warning"], [], ["info", "warning"]]

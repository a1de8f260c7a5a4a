"""The yardsticks: what they measure against known answers, and a short run of each command."""
from __future__ import annotations

import dataclasses
import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import search
from benchmarks.analytic.__main__ import main as analytic
from benchmarks.analytic.measures import energy_distance, measure
from benchmarks.analytic.world import WORLDS, Model, Numbers, World
from benchmarks.box import __main__ as box_main
from benchmarks.box import long as long_clips
from benchmarks.box.features import FEATURES, features_of, train
from benchmarks.box.models import Box
from benchmarks.cost import memory
from benchmarks.cost.__main__ import main as cost
from benchmarks.cost.memory import _Alive, peaks
from benchmarks.cost.work import work_of
from benchmarks.gpu.__main__ import main as gpu
from benchmarks.gpu.claims import prices
from benchmarks.plots import draw, front, panel
from benchmarks.report import Row, load, save, spread, table
from benchmarks.rivals import RIVALS, Ask, Step, _across
from benchmarks.search import Point
from benchmarks.settings import SETTINGS, Setting, chosen, freeinit, plan_of, sample
from ivmixed import Options, Schedule
from ivmixed import cost as costs
from ivmixed.measures.neural import frechet_distance
from ivmixed.motion.windows import uniform_windows
from ivmixed.standalone.box import CFG, FRAMES
from ivmixed.standalone.box.scenes import CAPTIONS, MOTIONS

SMALL = Numbers("small", frames=4, size=8, classes=2, templates=3)


@pytest.fixture(scope="module")
def world():
    return World(SMALL)


def true_clips(world, count, seed=0):
    """(count, frames, size) of each class in turn, and their classes."""
    labels = torch.arange(world.numbers.classes).repeat_interleave(count // world.numbers.classes)
    clips = world.clips.sample(labels, torch.Generator().manual_seed(seed))
    return clips.view(-1, world.numbers.frames, world.numbers.size), labels


# --- the analytic world

def test_the_covariance_is_that_of_its_formula(world):
    n = world.numbers
    clips, labels = true_clips(world, 40_000)
    rest = clips[labels == 0].flatten(1)[:, None] - world.means[0].flatten(1)
    rest = rest[torch.arange(len(rest)), rest.square().sum(2).argmin(1)]  # less its own template
    apart = (torch.arange(n.frames)[:, None] - torch.arange(n.frames)).abs()
    expected = n.texture**2 * torch.kron(n.memory ** apart.float(), torch.eye(n.size))
    torch.testing.assert_close(rest.T @ rest / len(rest), expected, atol=0.006, rtol=0)


def test_a_template_moves_at_its_speed_and_classes_move_apart(world):
    """A shift by whole samples is a roll."""
    whole = World(Numbers("whole", frames=3, size=8, speed=1.0)).means
    for label in range(4):
        for k in (1, 2):
            rolled = whole[label, :, 0].roll(k if label % 2 == 0 else -k, -1)
            torch.testing.assert_close(whole[label, :, k], rolled, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 9.0])
@pytest.mark.parametrize("model", ["video", "image"])
def test_denoised_is_the_score_of_the_density(world, model, sigma):
    """Tweedie: E[x0 | x] = x + sigma^2 grad log p(x), by automatic differentiation of the log-likelihood."""
    mixture = getattr(world, model).mixture
    labels = torch.arange(2).repeat(20)
    x = mixture.sample(labels, torch.Generator().manual_seed(1))
    x = (x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).requires_grad_()
    likelihood = mixture.log_likelihood(x, sigma)
    uncond, cond = mixture.denoised(x.detach(), sigma, labels)
    for density, denoised in ((likelihood.flatten(1).logsumexp(1), uncond),
                              (likelihood[torch.arange(40), labels].logsumexp(1), cond)):
        score, = torch.autograd.grad(density.sum(), x, retain_graph=True)
        torch.testing.assert_close(denoised, x.detach() + sigma**2 * score, atol=2e-3, rtol=2e-3)


def test_a_likelihood_is_that_of_torchs_distributions(world):
    n, clips = world.numbers, true_clips(world, 6)[0].flatten(1)
    apart = (torch.arange(n.frames)[:, None] - torch.arange(n.frames)).abs()
    covariance = torch.kron(n.texture**2 * n.memory ** apart.double(), torch.eye(n.size).double())
    covariance += 0.3**2 * torch.eye(len(covariance))
    normal = torch.distributions.MultivariateNormal(world.means.flatten(2).double(), covariance)
    expected = normal.log_prob(clips.double()[:, None, None]) - math.log(n.templates)
    torch.testing.assert_close(world.clips.log_likelihood(clips, 0.3).double(), expected, atol=2e-3, rtol=1e-4)


def test_an_image_model_may_be_spoilt():
    """Blur takes fine details from its pictures, fewer templates are the first of all, and a mistaken class has the
    next one's details on its own layouts."""
    exact = World(SMALL)
    numbers = dataclasses.replace(SMALL, image_blur=0.5, image_contrast=0.9, image_residue=0.1)
    spoilt, few, other = (World(n) for n in (numbers, dataclasses.replace(SMALL, image_templates=2),
                                             dataclasses.replace(SMALL, mistaken=1)))
    def pictures(world):
        return (world.image.mixture.means @ world.image.mixture.basis.T).unflatten(1, (-1, SMALL.frames))

    own = torch.fft.rfft(pictures(exact)).abs()
    kept = 0.9 * torch.exp(-0.5 * (2 * math.pi * 0.5 * torch.arange(5) / 8) ** 2)
    torch.testing.assert_close(torch.fft.rfft(pictures(spoilt)).abs(), own * kept, atol=1e-5, rtol=1e-4)
    assert spoilt.image.mixture.variance.min() >= 0.1**2
    torch.testing.assert_close(pictures(few), pictures(exact)[:, :2])
    details = slice(SMALL.coarse + 1, None)
    wrong = torch.fft.rfft(pictures(other)).abs()
    torch.testing.assert_close(wrong[0, ..., details], own[1, ..., details])
    torch.testing.assert_close(wrong[1], own[1])
    assert all(torch.equal(world.means, exact.means) for world in (spoilt, few, other))


def test_the_true_model_samples_the_truth(world):
    """With the scores of the true clips, no guidance and many steps, plain sampling is as near as true clips are."""
    n = world.numbers
    labels = torch.arange(2).repeat_interleave(300)
    exact = Model(world.clips, Schedule.linear(), n.frames)
    noise = torch.randn(n.frames, 600, 1, n.size, generator=torch.Generator().manual_seed(3))
    x, count = sample(chosen(["plain"])[0], (exact, exact), (exact.schedule, exact.schedule), noise, 100,
                      {"labels": labels, "cond_scale": 1.0}, 0)
    assert count == {"video": 100, "image": 0, "outer video": 0, "outer image": 0}
    truth, true_labels = true_clips(world, 2400)
    found = measure(world, x[:, :, 0].transpose(0, 1), labels, truth, true_labels)
    assert abs(found["joint"]) < 0.1 and abs(found["frame"]) < 0.05
    assert abs(found["surprise"]) < 0.6
    assert found["motion"] == pytest.approx(1, abs=0.03) and found["obeyed"] == 1


def test_measures_know_what_is_wrong(world):
    truth, true_labels = true_clips(world, 2400)
    clips, labels = true_clips(world, 600, seed=1)

    def found(changed):
        return measure(world, changed, labels, truth, true_labels)

    real = found(clips)
    assert all(abs(real[name]) < 0.1 for name in ("joint", "frame")) and real["motion"] == pytest.approx(1, abs=0.02)
    moment = torch.randint(clips.shape[1], (len(clips),), generator=torch.Generator().manual_seed(0))
    frozen = found(clips[torch.arange(len(clips)), moment][:, None].expand_as(clips))
    assert frozen["motion"] == pytest.approx(0, abs=1e-5) and frozen["joint"] > 0.2 > frozen["frame"]
    spectrum = torch.fft.rfft(clips)
    spectrum[..., 3:] = 0
    blurred = found(torch.fft.irfft(spectrum, 8))
    assert blurred["frame"] > 0.05 and blurred["surprise"] > 1 and blurred["motion"] == pytest.approx(1, abs=0.05)
    other = found(clips.flip(0))  # the classes' clips changed places
    assert other["obeyed"] == 0 and other["joint"] > 1 and other["motion"] == pytest.approx(-1, abs=0.05)


def test_details_that_change_beside_the_motion_boil():
    """Fresh noise in every frame does, its strength and the clip's own motion do not count."""
    world = World(WORLDS[0])
    clips, labels = true_clips(world, 120)
    truth, true_labels = true_clips(world, 480, seed=1)
    noise = 0.15 * torch.randn(clips.shape, generator=torch.Generator().manual_seed(1))
    real, paler, boiling = (measure(world, some, labels, truth, true_labels) for some in
                            (clips, 0.5 * clips, clips + noise))
    for name in ("boil", "sway"):
        assert real[name] == pytest.approx(1, abs=0.1) and paler[name] == pytest.approx(real[name], abs=1e-4)
        assert boiling[name] > 1.5


def test_energy_distance_of_shifted_normals():
    """Against the closed form in one dimension: for unit normals d apart, E|x - y| is that of a folded normal."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4000, 1, generator=generator) + shift for shift in (0.0, 1.5))
    folded = 2 / math.sqrt(math.pi) * math.exp(-1.5**2 / 4) + 1.5 * math.erf(1.5 / 2)
    assert energy_distance(x, y) == pytest.approx(2 * folded - 2 * 2 / math.sqrt(math.pi), abs=0.05)


# --- what is compared

TABLES = Schedule.linear(), Schedule.scaled_linear()


def test_settings_are_what_their_names_say():
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
    assert SETTINGS[0].name == "plain" and plan_of(SETTINGS[0], TABLES, 25)[0].evaluations == 25
    for setting in SETTINGS:
        if setting.group == "forms" and "-" in setting.name:
            assert setting.options == Options(form=setting.name)
    with pytest.raises(SystemExit, match="there are: plain; IV-IV"):
        chosen(["best"])


def test_the_outer_levels_are_those_of_the_automatic_schedule():
    _, sigmas = plan_of(SETTINGS[0], TABLES, 4)
    expected = [TABLES[0].timestep_to_sigma(t) for t in (999, 666, 333, 0)] + [0.0]
    torch.testing.assert_close(sigmas, torch.tensor(expected))


def test_freeinit_keeps_low_frequencies_and_renews_high_ones():
    generator = torch.Generator().manual_seed(0)
    x, noise, fresh = (torch.randn(16, 2, 16, 16, generator=generator) for _ in range(3))
    mixed = freeinit(x, noise, fresh, sigma=0.1)
    noised = (x + 0.1 * noise) / math.sqrt(1.01)
    found, low, high = (torch.fft.fftn(part, dim=(0, 2, 3)) for part in (mixed, noised, fresh))
    torch.testing.assert_close(found[0, :, 0, 0], low[0, :, 0, 0])
    torch.testing.assert_close(found[:, :, 8], high[:, :, 8], atol=1e-2, rtol=1e-2)
    quarter = found[2, :, 0, 0] - (low[2, :, 0, 0] + high[2, :, 0, 0]) / 2  # 2 / 8 of the highest: half and half
    assert quarter.abs().max() < 1e-3


@pytest.mark.parametrize("name, video, image", [
    ("plain", 8, 0), ("FreeInit, 3 iterations", 24, 0), ("1.5 times the steps", 12, 0), ("finish 20 %", 4, 4),
])
def test_evaluations_are_those_that_happen(world, name, video, image):
    asked = {"video": 0, "image": 0}

    def counting(model):
        def denoiser(x, sigma, **args):
            asked[model] += 1
            return getattr(world, model)(x, sigma, **args)
        return denoiser

    noise = torch.randn(4, 2, 1, 8, generator=torch.Generator().manual_seed(0))
    _, count = sample(chosen([name])[0], (counting("video"), counting("image")), TABLES, noise, 8,
                      {"labels": torch.arange(2), "cond_scale": 3.0}, 0)
    assert asked == {"video": video, "image": image}
    assert count == {**asked, "outer video": 0, "outer image": 0}


class Linear:
    """A model whose denoised latent is 0.5 x plus what guidance adds."""

    def __init__(self, shift):
        self.shift = shift

    def __call__(self, x, sigma, cond_scale):
        return 0.5 * x + self.shift * cond_scale


def step_of(a, b, number=0, steps=10, **memory):
    asks = [Ask(Linear(shift), table, name, {}) for shift, table, name in
            zip((0.1, 0.3), TABLES, ("video", "image"))]
    return Step(*asks, a, b, b / 2, 3.0, number, steps, lambda: torch.zeros(4, 1, 1, 2), memory)


def test_rivals_are_their_formulas():
    """A step from a = 2 to b = 1 of models that are linear, by hand: Euler gives x - (x - D) / 2 with D = 0.5 x + s."""
    x = torch.full((4, 1, 1, 2), 4.0)
    euler = {"video": 0.75 * 4 + 0.15, "image": 0.75 * 4 + 0.45}
    down = euler["video"]
    up = down + (0.5 * down) / 1  # without guidance D is half of it, so eps at b = 1 is the other half
    collapsed = 4 - 3 * 0.2  # the push: (b - a) cfg times the cached difference
    expected = {
        "average of both models": (euler["video"] + euler["image"]) / 2, "in turns": euler["video"],
        "EVS": euler["video"], "VideoGuide": 2.6 + 0.5 * (4 - 2.3), "Z-Sampling": 0.75 * up + 0.15,
        "collapsed Z-Sampling": 0.75 * collapsed + 0.15, "CFG++": (0.5 * 4 + 0.06) + 0.5 * (4 - 0.5 * 4),
    }
    for name, value in expected.items():
        memory = {"difference": torch.tensor(0.2)} if name == "collapsed Z-Sampling" else {}
        torch.testing.assert_close(RIVALS[name](step_of(2.0, 1.0, **memory), x), torch.full_like(x, value), msg=name)
    for name, number in (("in turns", 1), ("EVS", 7), ("VideoElevator", 3)):
        found = RIVALS[name](step_of(2.0, 1.0, number), x)
        torch.testing.assert_close(found, torch.full_like(x, euler["image"]), msg=name)


@pytest.mark.parametrize("name, video, image", [
    ("average of both models", 8, 8), ("in turns", 4, 4), ("EVS", 6, 2), ("VideoElevator", 4, 16), ("VideoGuide", 8, 2),
    ("Z-Sampling", 22, 0), ("collapsed Z-Sampling", 8, 0), ("CFG++", 8, 0), ("IV-IV with APG", 21, 13),
])
def test_evaluations_of_rivals_are_counted(world, name, video, image):
    noise = torch.randn(4, 2, 1, 8, generator=torch.Generator().manual_seed(0))
    x, count = sample(chosen([name])[0], (world.video, world.image), TABLES, noise, 8,
                      {"labels": torch.arange(2), "cond_scale": 3.0}, 0)
    assert count == {"video": video, "image": image, "outer video": 0, "outer image": 0}
    assert x.isfinite().all() and x.abs().mean() < 10


def test_what_is_across_is_at_right_angles_and_projection_takes_the_rest(world):
    """With the guidance all along the conditional latent nothing but its own step is left."""
    along, other = (torch.randn(4, 3, 1, 8, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    across = _across(2 * along + other, along)
    assert (across * along).sum((-1, -2)).abs().max() < 1e-5
    torch.testing.assert_close(across, _across(other, along))
    assert _across(3 * along, along).abs().max() < 1e-5


# --- tables

def test_rows_come_back_from_their_file_and_make_a_table(tmp_path):
    rows = [Row("w", name, seed, {"video": count, "image": 0}, {"joint": value + seed})
            for name, count, value in (("plain", 10, 1.0), ("IV-IV", 44, 3.0)) for seed in (0, 1)]
    save(tmp_path / "rows.json", rows)
    assert load(tmp_path / "rows.json") == rows
    assert table(rows).splitlines()[2:] == ["| plain | 10 (1.00) | 1.5 ± 0.7 |", "| IV-IV | 44 (4.40) | 3.5 ± 0.7 |"]
    cheap = Row("w", "finish", 0, {"video": 8, "image": 2}, {"joint": 1.0})
    assert "| finish | 10 (0.94) |" in table([*rows, cheap])
    assert spread([2.0]) == "2"


def test_an_evaluation_of_outer_layers_costs_what_their_work_is():
    """Counted on the full-size networks, which takes no memory."""
    work = work_of(16, 512, 512)
    for model in ("video", "image"):
        assert costs.WHOLE[model] == round(work[model] / work["video"], 2)
        assert costs.OUTER[model] == round(work[f"outer {model}"] / work["video"], 2)
    for sees in ("neighbours", "first"):
        assert costs.SEEING[sees] == tuple(
            round((work[f"{kind}, {sees}"] - work[kind]) / work["video"], 2) for kind in ("image", "outer image"))
    assert round(work["controlnet"] / work["video"], 2) == costs.CONTROLNET
    row = Row("w", "s", 0, {"video": 3, "image": 2, "outer video": 4, "outer image": 1, "image, first": 5}, {})
    assert row.price == pytest.approx(3 + 2 * 0.72 + 4 * 0.07 + 0.06 + 5 * 0.83)


@pytest.mark.thorough
def test_an_extra_loop_holds_hardly_more_memory_than_plain_sampling():
    most = peaks(chosen(["plain", "IV-IV", "reuse", "deep features"]), 4, 64, 64, small=True)
    latents = 4 * 4 * 8 * 8 * 4  # bytes of a clip's, float32
    assert most["plain"] > 100 * latents
    assert 0 <= most["IV-IV"] - most["plain"] <= 8 * latents and most["reuse"] == most["IV-IV"]
    assert most["deep features"] > most["IV-IV"]


def test_memory_is_that_of_the_tensors_alive_at_once():
    with _Alive() as alive:
        first = torch.empty(1000, device="meta")
        view = first[:10]
        second = first + 1
        del first, second
        third = torch.empty(500, device="meta", dtype=torch.float16)
        assert alive.now == 4000 + 1000  # the view keeps its whole
        del view, third
    assert alive.now == 0 and alive.most == 8000


@pytest.mark.thorough
def test_work_grows_with_frames_and_faster_with_size():
    """Motion and self-attention aside, as many frames or pixels are as much work."""
    small, long, large = (work_of(*shape, small=True) for shape in ((4, 64, 64), (8, 64, 64), (4, 128, 64)))
    assert long["image"] == 2 * small["image"] and long["video"] > 2 * small["video"]
    assert large["image"] > 2 * small["image"]


def test_the_front_is_what_no_other_setting_beats():
    points = [("plain", 1.0, 9.0), ("good", 1.5, 4.0), ("dear", 3.0, 5.0), ("same price", 1.5, 6.0), ("best", 5.0, 2.0)]
    assert front(points, better=-1) == ["plain", "good", "best"]
    assert front([(name, price, -value) for name, price, value in points], better=1) == ["plain", "good", "best"]


def test_a_plot_shows_every_setting(tmp_path):
    rows = [Row(world, name, seed, {"video": count}, {"joint": value + 0.1 * seed, "motion": 1.0})
            for world in ("a", "b") for seed in (0, 1)
            for name, count, value in (
                ("plain", 10, 3.0), ("IV-IV", 44, 1.0), ("last 20 %", 15, 1.2), ("true", 0, 0.0))]
    figure, axes = plt.subplots()
    panel(axes, rows[:8], "joint")
    prices = sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o")
    assert prices == [1.0, 1.5, 4.4]
    assert {text.get_text() for text in axes.texts} == {"plain", "last 20 %", "paper"}  # a preset by its own name
    plt.close(figure)
    draw(rows, ["joint", "motion"], tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size[0] > 800 and picture.size[1] > 600


# --- the bundled model

@pytest.mark.parametrize("name", [
    "deep features, fresh 33 %, last 40 %", pytest.param("reuse, last 50 %", marks=pytest.mark.thorough)])
def test_a_batch_makes_the_clips_that_the_pipeline_makes(name):
    model, prompts = Box(), ["a red circle moves right", "a blue square bounces"]
    noise = model.noise(2, 5)
    setting = chosen([name])[0]
    x, count = sample(setting, model.denoisers(prompts), model.tables, noise, 4, {"cond_scale": CFG}, 0)
    made = model.decode(x)
    for k, prompt in enumerate(prompts):
        clip = model.pipe(prompt, frames=FRAMES, steps=4, cfg_scale=CFG, options=setting.options, latents=noise[:, k],
                          progress=False)
        assert clip.plan.evaluations == sum(count.values())
        assert np.abs(made[k].astype(int) - clip.frames).max() <= 1
        assert np.abs(made[k].astype(int) - clip.frames).mean() < 0.02


def test_captions_are_spread_over_the_motions():
    found = box_main.captions(216, 1)
    assert set(found) <= set(CAPTIONS) and len(set(found)) == len(CAPTIONS)
    for motion in MOTIONS:
        assert sum(caption.endswith(motion) for caption in found) == 216 / len(MOTIONS)


@pytest.mark.thorough
def test_the_distance_of_features_grows_with_flaws():
    network, right = train(steps=40, pool=40)
    assert 0 <= right <= 1
    clips = box_main.drawn(box_main.captions(12, 2), 1)
    known = features_of(network, clips)
    assert known.shape == (12, FEATURES)
    noise = np.random.default_rng(0).normal(size=(12, *clips[0].shape))
    found = [frechet_distance(features_of(network, [np.clip(clip + level * part, 0, 255).astype(np.uint8)
                                                    for clip, part in zip(clips, noise)]), known)
             for level in (0, 10, 40)]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[0] < found[1] < found[2]


# --- the commands

def test_the_analytic_command(tmp_path, capsys):
    out = tmp_path / "rows.json"
    analytic(["--world", "few steps", "--setting", "plain", "--setting", "IV-IV", "--seeds", "2", "--clips", "40",
              "--out", str(out)])
    assert "| IV-IV | 44 (3.92) |" in capsys.readouterr().out
    rows = load(out)
    assert [row.setting for row in rows] == ["true clips"] * 2 + ["plain"] * 2 + ["IV-IV"] * 2
    assert all(math.isfinite(value) for row in rows for value in row.measures.values())


# --- the search

def test_a_point_of_the_search_is_its_plan():
    def models(**values):
        setting = Point(**values).setting(3.0)
        plan, _ = plan_of(setting, TABLES, 20)
        return plan, "".join(move.model[0] for move in plan.moves if move.kind == "ordinary")

    plan, own = models(finish=30)
    mere = Setting("finish", "finish", Options(interval=(0, 0), finish_percent=30))
    assert plan == plan_of(mere, TABLES, 20)[0]
    assert own == "v" * 14 + "i" * 6
    assert models(finish=30, turns=4)[1] == "v" * 10 + "iviv" + "i" * 6
    assert models(finish=30, last=2)[1] == "v" * 14 + "iiiivv"
    assert models(finish=0, turns=4, last=2, noise=2, cfg=0.4)[1] == "v" * 20
    plan, own = models(finish=30, cfg=0.4)
    assert [move.guidance for move in plan.moves if move.model == "image"] == pytest.approx([1.2] * 6)
    plan, own = models(finish=30, noise=2)
    noise, first, second = (move for move in plan.moves if move.kind != "ordinary")
    assert own == "v" * 14 + "i" * 6 and (noise.model, first.model, second.model) == ("noise", "image", "image")
    assert noise.sigma_to == first.sigma_from and second.sigma_to == noise.sigma_from == plan.moves[14].sigma_from
    plan, _ = models(finish=30, loops=50, gamma=2)
    loops = {move.step for move in plan.moves if move.kind != "ordinary"}
    assert len(loops) == 7 and max(loops) < 14 and Point(loops=50, gamma=2).setting(1).name == (
        "finish 20 %, loops 50, gamma 2")


def test_the_search_reports_on_what_it_did_not_search(tmp_path, capsys, monkeypatch):
    worlds = tuple(dataclasses.replace(SMALL, name=name, steps=6) for name in ("here", "there"))
    monkeypatch.setattr(search, "WORLDS", worlds)
    monkeypatch.setattr(search, "SEARCHED", ("here",))
    asked = []
    evaluate = search.evaluate
    monkeypatch.setattr(search, "evaluate", lambda world, setting, seeds, clips, first=1: (
        asked.append((world.numbers.name, first)), evaluate(world, setting, seeds, clips, first))[1])
    search.main(["--minutes", "0", "--clips", "8", "--seeds", "2", "--out", str(tmp_path / "rows.json")])
    assert asked[:2] == [("here", search.SEED)] * 2 and {first for _, first in asked[2:]} == {1}
    said = capsys.readouterr().out
    assert all(part in said for part in ("1 points in here", "## here (searched, other", "## there (not searched)"))
    rows = load(tmp_path / "rows.json")
    assert [row.setting for row in rows[:8:2]] == ["true clips", "plain", "IV-IV", "every 8th step"] and len(rows) == 20


def test_a_front_has_what_no_other_beats_in_price_and_a_measure():
    def found(finish, price, loss):
        return search.Found(Point(finish=finish), price, dict.fromkeys(search.MEASURES, loss))

    good, dear, bad, cheap = found(10, 1, 1), found(15, 2, 0.5), found(20, 2, 1.5), found(25, 0.5, 2)
    assert search.best([good, dear, bad, cheap]) == [good, dear, cheap]


def test_the_box_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(box_main, "trained", lambda path: train(steps=2, pool=12)[0])
    out = tmp_path / "rows.json"
    box_main.main(["--setting", "plain", "--setting", "last 40 %", "--clips", "2", "--groups", "1", "--steps", "3",
                   "--out", str(out)])
    assert "| plain | 3 (1.00) |" in capsys.readouterr().out
    rows = load(out)
    assert {row.setting for row in rows} == {"drawn clips", "plain", "last 40 %"}
    assert all(row.measures["obeyed"] == 1 for row in rows if row.setting == "drawn clips")
    boil = {row.setting: row.measures["boil"] for row in rows}
    assert boil["drawn clips"] < 0.1 < boil["plain"]


def test_the_cost_command(tmp_path, capsys, monkeypatch):
    """And what it says of memory: the extra loop takes hardly more than plain sampling."""
    monkeypatch.setattr(memory, "STEPS", 2)  # one with the extra loop
    out = tmp_path / "rows.json"
    cost(["--small", "--device", "cpu", "--frames", "2", "--size", "64x64", "--steps", "4", "--repeats", "1",
          "--setting", "IV-IV", "--setting", "reuse", "--setting", "deep features", "--out", str(out)])
    said = capsys.readouterr().out
    assert "| IV-IV | 9, 5 | 0, 0 | 3.50 |" in said and "| 2 | 64x64 |" in said
    assert "| reuse | 7, 3 | 0, 0 | 2.50 |" in said
    assert "| deep features | 7, 3 | 2, 2 | 3.50 |" in said
    line = next(line for line in said.splitlines() if line.startswith("tensors alive at once")).partition(": plain")[2]
    times = [float(part.split()[-1]) for part in line.split(",")]  # plain, IV-IV, reuse, deep features
    assert times[0] == 1 <= times[1] == times[2] <= times[3] and times[1] < 1.01
    seconds = {json.dumps(row.setting): row.measures["seconds"] for row in load(out)}
    assert all(value > 0 for value in seconds.values())


def test_the_check_of_a_gpu_without_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "STEPS", 2)  # one with the extra loop
    out = tmp_path / "check.json"
    assert gpu(["--device", "cpu", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for claim in ("an image evaluation is the plain UNet's, to the bit", "motion acts", "an empty interval is Euler",
                  "attention of both models and of built-in motion", "all clips are finite", "memory is at most 1.02"):
        assert f"pass  {claim}" in said
    assert "----  paper takes at most 4.3 times plain's seconds" in said and "| paper | 9, 5 |" in said
    found = json.loads(out.read_text())
    assert [claim["held"] for claim in found["claims"]].count(None) == 4
    assert sum(found["shares"].values()) == pytest.approx(1) and found["kernels"] == ["flash_attention_for_cpu"]


def test_a_price_that_is_too_high_fails():
    def rows(times, memory):
        measures = {"plain": (1.0, 1.0), "paper": (times, memory), "balanced": (1.2, 1.0), "fast": (0.9, 1.0),
                    "quality": (1.3, 1.0)}
        return [Row("25 steps", name, seed, {}, {"seconds": seconds * (1 + seed), "peak": peak})
                for seed in (0, 1) for name, (seconds, peak) in measures.items()]

    def held(*values, judged=True):
        return [claim.held for claim in prices(rows(*values), judged)]

    assert held(4.2, 1.01) == [True] * 5
    assert held(4.4, 1.03) == [False, True, True, True, False]
    assert held(4.4, 1.01, judged=False) == [None, None, None, None, True]


# --- long clips

def test_a_jump_is_told_from_what_changes_everywhere():
    settings = long_clips.settings_of("x", 0, 40, 3, "plain", {})
    starts = {window[0] for window in uniform_windows(2, **settings.windows(40))} - {0}
    steps = np.array([3.0 if frame in starts else 1.0 for frame in range(1, 40)]).cumsum()
    clip = np.broadcast_to(np.array([0.0, *steps])[:, None, None, None], (40, 16, 16, 3)).astype(np.uint8)
    assert len(starts) > 2 and long_clips.jump(clip, settings, 3) == pytest.approx(3)


def test_the_command_of_long_clips(tmp_path, capsys):
    sheet = tmp_path / "long.png"
    long_clips.main(["--clips", "1", "--frames", "13", "--steps", "1", "--setting", "pyramid", "--setting",
                     "pyramid, FreeNoise", "--preset", "plain", "--sheet", str(sheet)])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == ["drawn clips", "pyramid", "pyramid, FreeNoise"]
    assert rows[1][2:] != rows[2][2:] and all(math.isfinite(float(cell)) for row in rows for cell in row[2:-1])
    assert Image.open(sheet).width >= 12 * 128

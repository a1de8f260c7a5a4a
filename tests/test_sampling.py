"""Running a plan: exact denoisers of normal data, textbook loops, every dtype, and what happens when a run fails."""
import dataclasses
import importlib.metadata
import importlib.util
import math
import sys
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ivmixed import Move, NonFiniteError, OptionError, Options, Plan, Schedule, make_plan, sample_iv_mixed
from ivmixed.options import IMAGE_RESIZES, ConflictError
from ivmixed.plan import SOLVERS
from ivmixed.smoothing import smoothed

SHAPE = 3, 2, 4, 5
CFG = 7.5
LEVELS = [10.0, 6.0, 3.0, 1.0, 0.3, 0.0]
MODELS = ["video", "image"]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class Normal:
    """The exact guided denoiser of normal data: pixels of deviation ``spread``, correlated over frames by ``share``.

    With ``share`` 0 the frames are independent, as an image model has them; towards 1 they are one, as for a video
    model. Keeps what it was asked: ``seen`` (x), ``levels`` (sigma) and ``scales`` (cond_scale) by evaluation.
    """

    def __init__(self, share=0.0, cond=1.0, uncond=-0.5, spread=0.8):
        self.share, self.cond, self.uncond, self.spread = share, cond, uncond, spread
        self.seen, self.levels, self.scales = [], [], []

    def posterior_mean(self, x, sigma, mean, spread):
        common = (x - mean).mean(0, keepdim=True)
        own = (x - mean) - common
        with_all = spread**2 * (1 + (len(x) - 1) * self.share)
        with_none = spread**2 * (1 - self.share)
        return mean + common * with_all / (with_all + sigma**2) + own * with_none / (with_none + sigma**2)

    def __call__(self, x, sigma, cond_scale=1.0):
        assert sigma.shape == x.shape[:1]
        self.seen.append(x)
        self.levels.append(sigma[0])
        self.scales.append(cond_scale)
        level = sigma.view(-1, 1, 1, 1).to(x.dtype)
        uncond = self.posterior_mean(x, level, self.uncond, self.spread)
        cond = self.posterior_mean(x, level, self.cond, self.spread / 2)
        return uncond + cond_scale * (cond - uncond)

    def eps(self, x, sigma, scale):
        """The network's output, as the formulas have it."""
        return (x - self(x, x.new_full([len(x)], sigma), scale)) / sigma


def video_and_image():
    return Normal(share=0.9), Normal(share=0.0, cond=1.3, uncond=-0.2)


def noisy(dtype=torch.float32, shape=SHAPE, sigma=LEVELS[0]):
    return (sigma * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).to(dtype)


def run(plan, x, video=None, image=None, sigmas=None, **more):
    """A run of a plan at the CFG scale, with normal data unless other models are given."""
    if sigmas is None:
        ordinary = [move for move in plan.moves if move.kind == "ordinary"] or plan.moves
        levels = [move.sigma_from for move in ordinary] + [ordinary[-1].sigma_to]
        sigmas = torch.tensor([plan.moves[0].sigma_from, *levels[1:]], dtype=torch.float64)
    first, second = video_and_image()
    more = {"extra_args": {"cond_scale": CFG}, "disable": True, **more}
    return sample_iv_mixed(video or first, x, sigmas, image_model=image or second, plan=plan, **more)


def karras_sigmas(steps, start=14.6, end=0.03):
    u = torch.linspace(0, 1, steps)
    sigmas = (start ** (1 / 7) + u * (end ** (1 / 7) - start ** (1 / 7))) ** 7
    return torch.cat([sigmas, torch.zeros(1)])


# --- against definitions written out

def textbook_euler(model, x, sigmas, extra_args):
    """sample_euler of k-diffusion without churn."""
    s_in = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * s_in, **extra_args)
        d = (x - denoised) / (sigmas[i] * s_in).view(-1, 1, 1, 1)
        dt = sigmas[i + 1] - sigmas[i]
        x = x + d * dt
    return x


@pytest.mark.parametrize("sigmas", [
    torch.tensor(LEVELS), karras_sigmas(20), karras_sigmas(33)[:-1], karras_sigmas(1), torch.linspace(25.146, 0, 12),
], ids=["levels", "karras", "karras to 0.03", "one step", "linear"])
@pytest.mark.parametrize("seed", range(3))
def test_an_empty_interval_is_the_textbook_euler_loop_to_the_bit(sigmas, seed):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * sigmas[0]
    expected = textbook_euler(Normal(0.9), x, sigmas, {"cond_scale": CFG})
    result = sample_iv_mixed(Normal(0.9), x, sigmas, {"cond_scale": CFG}, disable=True,
                             image_model=Normal(), options=Options(interval=(0, 0)))
    assert torch.equal(result, expected)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("percent", [40, 100])
def test_a_finish_is_a_run_of_the_video_model_and_one_of_the_image_model(solver, percent):
    """To the bit: a multistep solver remembers nothing of the other model."""
    video, image = video_and_image()
    noise = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(k)) for k in range(len(LEVELS))]
    first = round((1 - percent / 100) * 5)

    def sampled(x, model, levels, **options):
        plan = make_plan(Options(interval=(0, 0), **options), levels, solver=solver)
        return run(plan, x, model, image, torch.tensor(levels), noise_sampler=lambda a, b: noise[LEVELS.index(b)])

    result = sampled(noisy(), video, LEVELS, finish_percent=percent)
    between = sampled(noisy(), video, LEVELS[:first + 1]) if first else noisy()
    assert torch.equal(result, sampled(between, image, LEVELS[first:]))
    assert not torch.equal(result, sampled(noisy(), video, LEVELS))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_finishing_step_above_the_image_models_table(solver):
    """It is asked at its largest level about the latent in that level's variance, and steps from the latent's own."""
    a, b, top = 6.0, 3.0, 4.0
    _, image = video_and_image()
    plan = Plan("", 1, (Move("image", "ordinary", top, a, b, None, 0),), solver)
    x, noise = noisy(torch.float64, sigma=a), noisy(torch.float64, sigma=1)
    seen = x * math.sqrt((1 + top**2) / (1 + a**2))
    denoised = x - a * image.eps(seen, top, CFG)
    up = math.sqrt(b**2 * (a**2 - b**2) / a**2)  # k-diffusion's ``get_ancestral_step``
    down = math.sqrt(b**2 - up**2)
    expected = {"euler": x + (b - a) * image.eps(seen, top, CFG), "lcm": denoised + b * noise,
                "euler_ancestral": x + (down - a) * image.eps(seen, top, CFG) + up * noise}
    result = run(plan, x, noise_sampler=lambda *levels: noise)
    if solver in expected:
        torch.testing.assert_close(result, expected[solver], rtol=0, atol=1e-9)
    else:  # both begin with a step of the first order
        weight = (b / a) ** (2 if solver == "dpmpp_2m_sde" else 1)
        first = weight * x + (1 - weight) * denoised
        added = noise * b * math.sqrt(1 - (b / a) ** 2) if solver == "dpmpp_2m_sde" else 0
        torch.testing.assert_close(result, first + added, rtol=0, atol=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_the_detail_of_the_finish_is_averaged_along_the_motion(share):
    """Written out: of what the image model sees beyond what the video model saw last, in Euler's steps."""
    video, image = video_and_image()
    x, levels = noisy(torch.float64), torch.tensor(LEVELS, dtype=torch.float64)
    plan = make_plan(Options(interval=(0, 0), finish_percent=40, finish_smoothing=100 * share), LEVELS)
    result = run(plan, x, sigmas=levels)
    for a, b in zip(LEVELS[:3], LEVELS[1:]):
        settled, x = x - a * video.eps(x, a, CFG), x + (b - a) * video.eps(x, a, CFG)
    for a, b in zip(LEVELS[3:], LEVELS[4:]):
        detail = x - a * image.eps(x, a, CFG) - settled
        x = x + (b - a) * (x - settled - smoothed(detail, settled, share)) / a
    torch.testing.assert_close(result, x, rtol=0, atol=1e-9)


def test_without_a_step_of_the_video_model_there_is_no_motion_to_follow():
    with pytest.raises(ConflictError, match=r"finish_smoothing.*finish_percent"):
        make_plan(Options(interval=(0, 0), finish_percent=100, finish_smoothing=50), LEVELS)
    table = Schedule.scaled_linear()
    skipped = make_plan(Options(finish_percent=100, finish_smoothing=50, above_sigma_max="skip"), [20.0, 1.0, 0.0],
                        Schedule.linear(), table)  # above the image model's table the video model makes the step
    assert skipped.moves[-1].model == "image" and skipped.finishing_steps == 1


@pytest.mark.parametrize("way", IMAGE_RESIZES)
def test_a_finishing_step_at_twice_the_size(way):
    """A model of pixels finds the same there; a smaller size than the clip's would leave noise, and is refused."""
    plan = make_plan(Options(interval=(0, 0), finish_percent=100, image_resize=way), LEVELS)
    doubled = dataclasses.replace(plan, image_size=(8, 10))
    if way in ("change", "nearest"):
        torch.testing.assert_close(run(doubled, noisy()), run(plan, noisy()))
    else:
        assert run(doubled, noisy()).shape == noisy().shape
    asked = []
    with pytest.raises(OptionError, match="image_size = '3x4'"):
        run(dataclasses.replace(plan, image_size=(4, 3)), noisy(), image=lambda *args, **more: asked.append(args))
    assert asked == []


def test_an_active_step_is_its_five_lines():
    video, image = video_and_image()
    a, b, c = 6.0, 3.0, 1.0
    x = start = noisy(torch.float64, sigma=a)
    x = x + (b - a) * image.eps(x, a, 1)
    x = x + (c - b) * video.eps(x, b, 2)
    x = x + (b - c) * image.eps(x, c, -3)
    x = x + (a - b) * video.eps(x, b, -5)
    x = x + (b - a) * video.eps(x, a, CFG)
    x = x + (c - b) * video.eps(x, b, CFG)
    options = Options(gamma_image_go=1, gamma_go=2, gamma_image_back=3, gamma_back=5, interval=(0, 50))
    result = run(make_plan(options, [a, b, c]), start)
    torch.testing.assert_close(result, x, rtol=0, atol=1e-6)
    assert (result - textbook_euler(video, start, torch.tensor([a, b, c]), {"cond_scale": CFG})).abs().max() > 1


def test_a_step_that_reuses_is_its_five_lines():
    """The back moves take both models' predictions of the go moves: of the latent and the level of these."""
    video, image = video_and_image()
    a, b, c = 6.0, 3.0, 1.0
    x = start = noisy(torch.float64, sigma=a)
    first = x
    x = x + (b - a) * image.eps(first, a, 1)
    second = x
    x = x + (c - b) * video.eps(second, b, 2)
    x = x + (b - c) * image.eps(first, a, -3)
    x = x + (a - b) * video.eps(second, b, -5)
    x = x + (b - a) * video.eps(x, a, CFG)
    options = Options(gamma_image_go=1, gamma_go=2, gamma_image_back=3, gamma_back=5, reuse_percent=50,
                      interval=(0, 1))
    plan = make_plan(options, [a, b, c])
    assert plan.evaluations == 4
    moves = tuple(move for move in plan.moves if move.step == 0)
    torch.testing.assert_close(run(dataclasses.replace(plan, moves=moves), start), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{"reuse_percent": 50}, {"reuse_percent": 75}, {"reuse_percent": 100}])
def test_a_reused_prediction_is_the_very_latent_of_the_latest_evaluation(options):
    """So a denoiser can answer from memory."""
    video, image = video_and_image()
    plan = make_plan(Options(**options), LEVELS)
    run(plan, noisy(torch.float16), video, image)
    latest, told = {}, {"video": iter(range(99)), "image": iter(range(99))}
    for move in plan.moves:
        model, k = {"video": video, "image": image}[move.model], next(told[move.model])
        if move.reuse:
            assert model.seen[k] is latest[move.model][0] and model.levels[k] == latest[move.model][1]
        else:
            assert all(model.seen[k] is not x for x in model.seen[:k])
            latest[move.model] = model.seen[k], model.levels[k]
        assert model.scales[k] == (CFG if move.guidance is None else move.guidance)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_rescaled_moves_by_hand(share):
    """The eps of a move is brought to the deviation of that at guidance 1, over the whole clip."""
    video, image = video_and_image()
    a, b, c = 6.0, 3.0, 1.0
    x = start = noisy(torch.float64, sigma=a)

    def eps(model, x, sigma, scale):
        guided, cond = model.eps(x, sigma, scale), model.eps(x, sigma, 1)
        return guided * (share * cond.std() / guided.std() + 1 - share)

    x = x + (b - a) * eps(image, x, a, 4)
    x = x + (c - b) * eps(video, x, b, 4)
    x = x + (b - c) * eps(image, x, c, -4)
    x = x + (a - b) * eps(video, x, b, -4)
    x = x + (b - a) * video.eps(x, a, CFG)  # the ordinary step is left alone
    x = x + (c - b) * video.eps(x, b, CFG)
    plan = make_plan(Options(guidance_rescale=share), [a, b, c])
    told = []
    torch.testing.assert_close(run(plan, start, on_move=told.append), x, rtol=1e-12, atol=1e-12)
    asked = [move for move in told if move.reuse == "prediction"]
    assert [move.guidance for move in asked] == [1.0] * 4 and len(told) == len(plan.moves) + 4
    assert not any(move.evaluates for move in asked)


@pytest.mark.parametrize("options", [{}, {"reuse_percent": 50}, {"reuse_percent": 75, "form": "II-II"}])
def test_the_question_about_guidance_1_is_of_the_very_latent_and_level(options):
    video, image = video_and_image()
    seen = {"video": video.seen, "image": image.seen}
    plan, questions = make_plan(Options(guidance_rescale=0.5, **options), LEVELS), []

    def on_move(move):
        if move.guidance == 1.0:
            questions.append((move.model, len(seen[move.model])))

    run(plan, noisy(torch.float16), video, image, on_move=on_move)
    assert len(questions) == sum(move.kind != "ordinary" for move in plan.moves)
    for name, k in questions:
        model = {"video": video, "image": image}[name]
        assert model.seen[k] is model.seen[k - 1] and model.levels[k] == model.levels[k - 1] and model.scales[k] == 1


def test_a_move_that_reuses_features_asks_about_its_own_latent():
    exact = run(make_plan(Options(), LEVELS), noisy())
    plan = make_plan(Options(reuse_percent=50, reused="features"), LEVELS)
    assert plan.reuses("features") and torch.equal(run(plan, noisy()), exact)


def test_a_step_with_fresh_noise_is_its_five_lines():
    video, image = video_and_image()
    a, b, c = 6.0, 3.0, 1.0
    x = start = noisy(torch.float64, sigma=a)
    x = x + (b - a) * image.eps(x, a, 4)
    x = x + (c - b) * video.eps(x, b, 4)
    x = x + (b * b - c * c) ** 0.5 * 0.3
    x = x + (a * a - b * b) ** 0.5 * -0.7
    x = x + (b - a) * video.eps(x, a, CFG)
    plan = make_plan(Options(form="RR-IV"), [a, b, c])
    moves = tuple(move for move in plan.moves if move.step == 0)
    drawn, asked = iter([0.3, -0.7]), []

    def noise(*levels):
        asked.append(levels)
        return torch.full(SHAPE, next(drawn), dtype=torch.float64)

    result = run(dataclasses.replace(plan, moves=moves), start, noise_sampler=noise)
    torch.testing.assert_close(result, x, rtol=1e-12, atol=1e-12)
    assert asked == [(c, b), (b, a)]


def test_a_step_that_goes_up_first_is_its_five_lines():
    """From the level of the step to those of the two steps before, and back down with the models of the form."""
    video, image = video_and_image()
    first, a, b, c = 9.0, 6.0, 3.0, 1.0  # levels of the steps 0, 1 and 2, and its end
    x = start = noisy(torch.float64, sigma=b)
    x = x + (a - b) * image.eps(x, b, -3)
    x = x + (first - a) * video.eps(x, a, -5)
    x = x + (a - first) * image.eps(x, first, 1)
    x = x + (b - a) * video.eps(x, a, 2)
    x = x + (c - b) * video.eps(x, b, CFG)
    options = Options(gamma_image_go=1, gamma_go=2, gamma_image_back=3, gamma_back=5,
                      loop_order="noise-first")
    plan = make_plan(options, [first, a, b, c])
    moves = tuple(dataclasses.replace(move, step=0) for move in plan.moves if move.step == 2)
    torch.testing.assert_close(run(dataclasses.replace(plan, moves=moves), start), x, rtol=1e-12, atol=1e-12)


def test_a_step_of_the_released_animatediff_order_is_its_five_lines():
    """The variance-preserving latent is carried over to the level at which each move begins."""
    video, image = video_and_image()
    a, b, c = 6.0, 3.0, 1.0

    def vp(level):
        return math.sqrt(1 + level**2)

    x = start = noisy(torch.float64, sigma=a)
    x = x / vp(a) * vp(b)
    x = x + (c - b) * image.eps(x, b, 1)
    x = x / vp(c) * vp(a)
    x = x + (b - a) * video.eps(x, a, 2)
    x = x / vp(b) * vp(c)
    x = x + (b - c) * image.eps(x, c, -3)
    x = x + (a - b) * video.eps(x, b, -5)
    x = x + (b - a) * video.eps(x, a, CFG)
    x = x + (c - b) * video.eps(x, b, CFG)
    options = Options(gamma_image_go=1, gamma_go=2, gamma_image_back=3, gamma_back=5,
                      loop_order="animatediff", interval=(0, 50))
    sigmas = torch.tensor([a, b, c], dtype=torch.float64)
    result = run(make_plan(options, sigmas), start, sigmas=sigmas)
    torch.testing.assert_close(result, x, rtol=1e-12, atol=1e-12)


@given(st.floats(0.05, 5), st.floats(0.05, 5))
def test_fresh_noise_has_the_variance_of_its_move(low, more):
    """A latent of pure noise at a level is one of pure noise at the next."""
    move = Move("noise", "back", low, low, low + more, None, 0)
    x = low * torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    result = run(Plan("RR-IV", 1, (move,)), x, noise_sampler=lambda *levels: torch.randn(x.shape, generator=generator))
    assert result.std() / (low + more) == pytest.approx(1, abs=0.02)


def test_progress_counts_evaluations_alone(capsys):
    plan = make_plan(Options(reuse_percent=50), LEVELS)
    run(plan, noisy(), disable=False)
    assert plan.evaluations == 13 and "13/13" in capsys.readouterr().err


def test_a_level_unlike_the_latents_is_met_by_the_variance_preserving_latent():
    """Labels (clamped, or of an equal timestep) and gaps between moves rescale x by sqrt(1 + sigma^2)."""
    video, image = video_and_image()
    x = start = noisy(torch.float64, sigma=5.0)

    def carried(x, level, to):
        return x / math.sqrt(1 + level**2) * math.sqrt(1 + to**2)

    x = x + (2.0 - 5.0) * image.eps(carried(x, 5.0, 3.0), 3.0, 4)
    x = carried(x, 2.0, 2.5)
    x = x + (0.5 - 2.5) * video.eps(x, 2.5, CFG)
    moves = Move("image", "go", 3.0, 5.0, 2.0, 4.0, 0), Move("video", "ordinary", 2.5, 2.5, 0.5, None, 0)
    torch.testing.assert_close(run(Plan("", 1, moves), start), x, rtol=0, atol=1e-9)


def test_the_last_step_to_zero_returns_the_denoised_latent():
    video = Normal(0.9)
    x = noisy(torch.float64, sigma=0.5)
    result = run(make_plan(Options(), [0.5, 0.0]), x, video)
    torch.testing.assert_close(result, video(x, x.new_full([3], 0.5), CFG), rtol=0, atol=1e-12)


# --- what theory says

def order(error, sizes):
    """The power of the step size with which an error falls."""
    logs = torch.tensor([[math.log(size), math.log(error(size))] for size in sizes], dtype=torch.float64)
    logs = logs - logs.mean(0)
    return float((logs[:, 0] * logs[:, 1]).sum() / (logs[:, 0] ** 2).sum())


def there_and_back(levels, rows, guidance, sign=1):
    """Moves down the levels and up again; ``rows`` are the models in turn, down first."""
    down, up = list(zip(levels, levels[1:])), list(zip(levels[::-1], levels[-2::-1]))
    return Plan("", 1, tuple(
        Move(rows[k % len(rows)], "go" if k < len(down) else "back", start, start, end,
             guidance if k < len(down) else sign * guidance, 0)
        for k, (start, end) in enumerate(down + up)))


SIZES = [0.2, 0.1, 0.05, 0.025]


def return_error(plan, a=3.0):
    x = noisy(torch.float64, sigma=a)
    return (run(plan, x) - x).abs().max().item()


@pytest.mark.parametrize("guidance", [0.0, 1.0, 4.0, -4.0])
@pytest.mark.parametrize("model", MODELS)
def test_going_and_coming_back_at_one_guidance_returns_up_to_the_square_of_the_step(model, guidance):
    """x1 = x - h eps(x, a), x2 = x1 + h eps(x1, b): what is left is h times a difference of eps, itself of size h."""
    def error(h):
        return return_error(there_and_back([3.0, 3.0 - h], [model], guidance))

    assert order(error, SIZES) == pytest.approx(2, abs=0.1)
    assert error(0.001) < 1e-5


def test_two_moves_there_and_back_return_up_to_the_square_too():
    def error(h):
        return return_error(there_and_back([3.0, 3.0 - h, 3.0 - 2 * h], ["image", "video", "video", "image"], 4.0))

    assert order(error, [0.05, 0.025, 0.0125]) == pytest.approx(2, abs=0.1)


def test_over_a_whole_stretch_the_squares_add_up_to_one_power_of_the_step():
    def error(h):
        levels = [3.0 - h * k for k in range(round(1 / h) + 1)]
        return return_error(there_and_back(levels, ["video"], 4.0))

    assert order(error, SIZES) == pytest.approx(1, abs=0.1)


def test_coming_back_at_the_opposite_guidance_does_not_return():
    def error(h):
        return return_error(there_and_back([3.0, 3.0 - h], ["video"], 4.0, sign=-1))

    assert order(error, SIZES) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("loop_order", ["denoise-first", "noise-first"])
def test_to_first_order_the_extra_loop_is_the_guidance_of_both_models(loop_order):
    """rows 1-4 move x by (b - a) (gamma_go + gamma_back) times the sum over the models of cond - uncond."""
    video, image = video_and_image()
    x = noisy(torch.float64, sigma=3.0)
    guidance = sum(model.eps(x, 3.0, 1) - model.eps(x, 3.0, 0) for model in (video, image))

    def error(h):
        levels = [3.0 + 2 * h, 3.0 + h, 3.0, 3.0 - h, 3.0 - 2 * h]
        plan = make_plan(Options(gamma_go=3, gamma_back=2, loop_order=loop_order), levels)
        loop = dataclasses.replace(plan, moves=tuple(m for m in plan.moves if m.step == 2 and m.kind != "ordinary"))
        moved = run(loop, x) - x
        return (moved - -h * (3 + 2) * guidance).abs().max().item()

    assert order(error, SIZES) == pytest.approx(2, abs=0.1)


def test_small_steps_approach_the_exact_solution_of_normal_data():
    """Unguided, x - mean shrinks along the flow as sqrt(spread^2 + sigma^2)."""
    model = Normal(share=0.0, cond=0.0, uncond=0.4)
    x = noisy(torch.float64, sigma=5.0)
    exact = 0.4 + (x - 0.4) * math.sqrt((0.8**2 + 0.5**2) / (0.8**2 + 5.0**2))

    def error(h):
        levels = [5.0 - h * k for k in range(round(4.5 / h) + 1)]
        plan = make_plan(Options(interval=(0, 0)), levels)
        return (run(plan, x, model, extra_args={"cond_scale": 0.0}) - exact).abs().max().item()

    assert order(error, [0.1, 0.05, 0.025]) == pytest.approx(1, abs=0.1)


# --- one model for both

@pytest.mark.parametrize("form", ["IV-IV", "VV-VV", "II-II"])
def test_two_equal_models_are_one_model(form):
    options, sigmas, x = Options(form=form, gamma_go=(6, 2)), torch.tensor(LEVELS), noisy()
    args = {"extra_args": {"cond_scale": CFG}, "disable": True, "options": options}
    both = sample_iv_mixed(Normal(0.9), x, sigmas, image_model=Normal(0.9), **args)
    assert torch.equal(sample_iv_mixed(Normal(0.9), x, sigmas, **args), both)
    other = sample_iv_mixed(Normal(0.9), x, sigmas, image_model=Normal(0.1), **args)
    assert torch.equal(other, both) == (form == "VV-VV")


# --- dtypes and shapes

@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("frames", [1, 2, 7, 33])
def test_dtype_and_shape_stay_and_the_models_get_them(dtype, frames):
    video, image = video_and_image()
    x = noisy(dtype, (frames, *SHAPE[1:]))
    result = run(make_plan(Options(), LEVELS), x, video, image)
    assert (result.dtype, result.shape) == (dtype, x.shape)
    assert result.isfinite().all()
    for seen in video.seen + image.seen:
        assert (seen.dtype, seen.shape) == (dtype, x.shape)
    for level in video.levels + image.levels:
        assert level.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_any_channels_and_sizes():
    for shape in (2, 4, 8, 8), (1, 1, 1, 1), (3, 16, 2, 9):
        assert run(make_plan(Options(), LEVELS), noisy(shape=shape)).shape == shape


def test_the_callers_latent_is_left_alone():
    x = noisy()
    before = x.clone()
    run(make_plan(Options(), LEVELS), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_updated_in_single(dtype):
    """Over many tiny steps an update in half precision loses what ours keeps."""
    sigmas = torch.linspace(10, 1, 301, dtype=torch.float64)
    plan = make_plan(Options(interval=(0, 0)), sigmas)
    x = noisy(dtype)
    exact = run(plan, x.double())
    ours = run(plan, x).double()
    in_half = textbook_euler(Normal(0.9), x, sigmas.to(dtype), {"cond_scale": CFG}).double()
    assert (ours - exact).abs().mean() < (in_half - exact).abs().mean() / 3


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_precision_is_near_the_exact_run(dtype):
    plan = make_plan(Options(), LEVELS)
    x = noisy(dtype)
    exact = run(plan, x.double())
    epsilon = torch.finfo(dtype).eps
    difference = (run(plan, x).double() - exact).abs().max()
    assert difference <= 100 * epsilon * exact.abs().max()
    assert dtype == torch.float64 or difference > 0


# --- what reaches the models and the caller

def test_moves_reach_the_models_in_order_with_signed_guidance():
    asked = []

    def listening(name):
        def model(x, sigma, cond_scale):
            asked.append((name, round(sigma[0].item(), 5), cond_scale))
            return torch.zeros_like(x)
        return model

    options = Options(gamma_image_go=(1, 6), gamma_go=2, gamma_image_back=(3, 0), gamma_back=5)
    plan = make_plan(options, [20.0, *LEVELS], Schedule.linear(), Schedule.scaled_linear())
    told = []
    run(plan, noisy(), listening("video"), listening("image"), on_move=lambda move: told.append((move, len(asked))))
    assert asked == [(move.model, round(move.sigma, 5), CFG if move.guidance is None else move.guidance)
                     for move in plan.moves]
    assert [scale for _, _, scale in asked[:5]] == [1.0, 2.0, -3.0, -5.0, CFG]
    assert told == [(move, index) for index, move in enumerate(plan.moves)], "told before its evaluation"


def test_a_plans_own_guidance_of_an_ordinary_step_goes_before_the_callers():
    video = Normal(0.9)
    run(Plan("", 1, (Move("video", "ordinary", 2.0, 2.0, 1.0, 9.0, 0),)), noisy(), video)
    assert video.scales == [9.0]


def test_other_arguments_pass_through_and_the_callers_are_left_alone():
    cond, got = torch.ones(3), []

    def model(x, sigma, **args):
        got.append(dict(args))
        args.clear()
        return torch.zeros_like(x)

    extra_args = {"cond_scale": CFG, "cond": cond, "s_min_uncond": 0.5}
    run(make_plan(Options(), LEVELS), noisy(), model, model, extra_args=extra_args)
    assert extra_args == {"cond_scale": CFG, "cond": cond, "s_min_uncond": 0.5}
    assert len(got) == 4 * 5 + 1 - 2
    for args in got:
        assert args.keys() == extra_args.keys()
        assert args["cond"] is cond
        assert args["s_min_uncond"] == 0.5


def test_without_extra_arguments_only_the_extra_moves_have_a_scale():
    got = []

    def model(x, sigma, **args):
        got.append(args)
        return torch.zeros_like(x)

    plan = make_plan(Options(), LEVELS)
    sample_iv_mixed(model, noisy(), torch.tensor(LEVELS), disable=True, plan=plan)
    assert got == [{} if move.guidance is None else {"cond_scale": move.guidance} for move in plan.moves]


def test_callback_comes_once_a_step_with_k_diffusions_keys():
    video, image = video_and_image()
    sigmas, heard = torch.tensor(LEVELS), []
    plan = make_plan(Options(), LEVELS)

    def callback(data):
        heard.append((data, len(video.seen) + len(image.seen)))

    run(plan, noisy(), video, image, sigmas, callback=callback)
    after = [index + 1 for index, move in enumerate(plan.moves) if move.kind == "ordinary"]
    ordinary = [seen for seen, scale in zip(video.seen, video.scales) if scale == CFG]
    assert [evaluations for _, evaluations in heard] == after
    for i, (data, _) in enumerate(heard):
        assert set(data) == {"x", "i", "sigma", "sigma_hat", "denoised"}
        assert (data["i"], data["sigma"], data["sigma_hat"]) == (i, sigmas[i], sigmas[i])
        assert torch.equal(data["x"], ordinary[i]), "the latent that the ordinary step begins with"
        assert torch.equal(data["denoised"], Normal(0.9)(data["x"], sigmas[i] * torch.ones(3), CFG))


def test_callback_and_on_move_see_the_run_and_do_not_change_it():
    plan, x = make_plan(Options(), LEVELS), noisy()
    assert torch.equal(run(plan, x), run(plan, x, callback=lambda data: None, on_move=lambda move: None))


def test_on_step_end_has_the_new_latent_and_may_change_it():
    plan, x = make_plan(Options(), LEVELS), noisy()
    seen = []

    def watch(move, latent):
        seen.append((move.step, move.kind, latent))
        return latent

    result = run(plan, x, on_step_end=watch)
    assert [entry[:2] for entry in seen] == [(step, "ordinary") for step in range(5)]
    assert torch.equal(seen[-1][2], result) and torch.equal(result, run(plan, x))
    halved = run(plan, x, on_step_end=lambda move, latent: latent / 2 if move.step == 4 else latent)
    assert torch.equal(halved, result / 2)


def test_an_exception_of_the_callback_leaves_at_once():
    video = Normal(0.9)

    def interrupt(data):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_plan(Options(form="VV-VV"), LEVELS), noisy(), video, callback=interrupt)
    assert len(video.seen) == 5


def test_progress_counts_evaluations(capsys):
    plan = make_plan(Options(), LEVELS)
    run(plan, noisy(), disable=False)
    assert f"{plan.evaluations}/{plan.evaluations}" in capsys.readouterr().err
    run(plan, noisy(), disable=True)
    assert capsys.readouterr().err == ""


class WithTable(Normal):
    """A denoiser that knows its noise table, as k-diffusion's do."""

    def __init__(self, schedule, **more):
        super().__init__(**more)
        self.sigmas = torch.tensor(schedule.sigmas)


@pytest.mark.parametrize("match", ["sigma", "timestep"])
def test_noise_tables_are_read_from_the_models(match):
    tables = Schedule.linear(), Schedule.scaled_linear()
    sigmas = torch.tensor([25.0, 12.0, 5.0, 1.0, 0.0])
    options = Options(schedule_match=match)
    plan = make_plan(options, sigmas, *tables)
    assert plan != make_plan(options, sigmas)
    video, image = WithTable(tables[0], share=0.9), WithTable(tables[1])
    sample_iv_mixed(video, noisy(), sigmas, {"cond_scale": CFG}, disable=True, image_model=image, options=options)
    for name, model in ("video", video), ("image", image):
        expected = [move.sigma for move in plan.moves if move.model == name]
        assert torch.stack(model.levels).tolist() == pytest.approx(expected, rel=1e-5)


def test_wrong_options_and_sigmas_raise_before_the_first_evaluation():
    video = Normal()
    with pytest.raises(ValueError, match="sigmas"):
        sample_iv_mixed(video, noisy(), torch.tensor([1.0, 2.0, 0.0]), disable=True)
    with pytest.raises(OptionError):
        sample_iv_mixed(video, noisy(), torch.tensor(LEVELS), disable=True, options=Options(form="RR"))
    assert video.seen == []


# --- a latent that is not finite

SHORT = make_plan(Options(gamma_go=3, gamma_back=2), [10.0, 6.0, 3.0, 1.0, 0.0])


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", range(SHORT.evaluations))
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_non_finite_evaluation_stops_the_run_at_once(index, poison, dtype):
    calls = []

    def poisoned(model):
        def evaluate(x, sigma, **args):
            denoised = model(x, sigma, **args)
            if len(calls) == index:
                denoised[-1, 0, 1, 2] = poison
            calls.append(model)
            return denoised
        return evaluate

    with pytest.raises(NonFiniteError) as error:
        run(SHORT, noisy(dtype), *map(poisoned, video_and_image()))
    move = SHORT.moves[index]
    assert len(calls) == index + 1
    assert error.value.move == move
    message = str(error.value)
    assert f"step {move.step + 1} of 4" in message
    assert f"{move.kind} move of the {move.model} model" in message
    guidance = {"go": "guidance +3", "back": "guidance -2"}.get(move.kind)
    assert guidance in message if guidance else "with guidance" not in message
    assert all(cure in message for cure in ("--no-half", "--all-in-fp32", "--force-fp32", "--precision fp32"))


def test_a_latent_that_is_not_finite_to_begin_with_is_noticed():
    video = Normal()
    x = noisy()
    x[0, 0, 0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="step 1 of 5"):
        run(make_plan(Options(form="VV-VV"), LEVELS), x, video)
    assert len(video.seen) == 1


# --- nothing waits for the device

class HostReads(TorchDispatchMode):
    """Notes the operations that bring a tensor's values to the host, as the dispatcher sees them."""

    READS = frozenset({"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim"})

    def __init__(self):
        super().__init__()
        self.noticed = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        device = kwargs.get("device")
        to_host = name == "_to_copy" and device is not None and torch.device(device).type == "cpu"
        # the only copy between devices is that of the watch's flag
        waiting = name == "copy_" and not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in self.READS or to_host or waiting or by_mask:
            self.noticed.append(name)
        return func(*args, **kwargs)


class HostReadCalls(TorchFunctionMode):
    """The same as written in Python: on the CPU these calls need no operation, on a GPU each waits."""

    READS = frozenset({"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__",
                       "__contains__", "__format__", "__repr__"})

    def __init__(self):
        super().__init__()
        self.noticed = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in self.READS:
            self.noticed.append(name)
        return func(*args, **(kwargs or {}))


def host_reads(dtype, model, options=None):
    """What was read from the first move to the end of the last, of a plan of all kinds of moves."""
    plan = make_plan(options or Options(), [20.0, *LEVELS], Schedule.linear(), Schedule.scaled_linear())
    operations, calls = HostReads(), HostReadCalls()

    def on_move(move):
        if move is plan.moves[0]:  # the flags are made before, and nothing has been computed yet
            operations.noticed.clear()
            calls.noticed.clear()

    with operations, calls:
        run(plan, noisy(dtype), model, model, on_move=on_move, callback=lambda data: None)
    if calls.noticed[-1:] == ["cpu"]:  # one wait when all is done
        calls.noticed.pop()
    return operations.noticed + calls.noticed


@pytest.mark.parametrize("options", [
    Options(), Options(schedule_match="timestep", z_percent=50), Options(interval=(0, 0)),
], ids=["default", "timestep", "plain"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nothing_is_read_on_the_host_during_a_run(dtype, options):
    assert host_reads(dtype, Normal(0.9), options) == []


@pytest.mark.parametrize("read, noticed", [
    (lambda x: x.sum().item(), "item"),
    (lambda x: float(x.sum()), "__float__"),
    (lambda x: bool((x > 0).all()), "__bool__"),
    (lambda x: x.cpu(), "cpu"),
    (lambda x: x.nonzero(), "nonzero"),
    (lambda x: x[x > 0], "index"),
    (lambda x: torch.zeros_like(x).copy_(x), "copy_"),
    (lambda x: x.to("cpu", torch.float64, copy=True), "_to_copy"),
])
def test_a_read_on_the_host_would_be_noticed(read, noticed):
    def model(x, sigma, **args):
        read(x)
        return torch.zeros_like(x)

    assert noticed in host_reads(torch.float32, model)


# --- the solvers of the ordinary step

@pytest.fixture(scope="module")
def kdiffusion():
    """The installed k-diffusion's samplers: their file alone, as the package around it needs a dozen others."""
    file = importlib.metadata.distribution("k-diffusion").locate_file("k_diffusion/sampling.py")
    package, utils = types.ModuleType("_kdiffusion"), types.ModuleType("_kdiffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]
    package.__path__, package.utils = [], utils
    spec = importlib.util.spec_from_file_location("_kdiffusion.sampling", file)
    sampling = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "_kdiffusion", package)
        patch.setitem(sys.modules, "_kdiffusion.utils", utils)
        spec.loader.exec_module(sampling)
    return sampling


SCHEDULES = {
    "levels": torch.tensor(LEVELS), "karras": karras_sigmas(20), "to 0.03": karras_sigmas(33)[:-1],
    "one step": karras_sigmas(1), "two steps": karras_sigmas(2), "discarded": torch.cat([karras_sigmas(9)[:-2],
                                                                                         torch.zeros(1)]),
    "float64": torch.tensor([10, 6, 3, 1, 0.3, 0], dtype=torch.float64),
}


@pytest.mark.parametrize("solver, name", [
    (solver, name) for solver in SOLVERS[:3] for name in SCHEDULES  # it has no LCM
    if (solver, name) != ("dpmpp_2m_sde", "one step")  # k-diffusion's own fails there
])
def test_without_an_extra_loop_a_solver_is_k_diffusions_own_to_the_bit(kdiffusion, solver, name):
    sigmas = SCHEDULES[name]
    x = noisy(torch.float64 if sigmas.dtype == torch.float64 else torch.float32, sigma=float(sigmas[0]))
    more = {}
    if solver == "dpmpp_2m_sde":
        tree = kdiffusion.BrownianTreeNoiseSampler(x, sigmas[sigmas > 0].min() / 2, sigmas.max(), seed=[1, 2, 3])
        more["noise_sampler"] = lambda *levels: tree(*map(float, levels))
    args = {"extra_args": {"cond_scale": CFG}, "disable": True}
    expected = getattr(kdiffusion, f"sample_{solver}")(Normal(0.9), x, sigmas, **args, **more)
    plan = make_plan(Options(interval=(0, 0)), sigmas, solver=solver)
    result = sample_iv_mixed(Normal(0.9), x, sigmas, image_model=Normal(), plan=plan,
                             step_noise_sampler=more.get("noise_sampler"), **args)
    assert torch.equal(result, expected)
    others = [run(dataclasses.replace(plan, solver=other), x) for other in SOLVERS[:3] if other != solver]
    if len(sigmas) > 3:
        assert all((result - other).abs().max() > 1e-3 for other in others)


def errors_by_steps(solver, options, exact, steps, x, models, cfg):
    """The error at sigma 0.5 of runs from 5 in so many steps, evenly spread in log sigma."""
    for count in steps:
        levels = torch.logspace(math.log2(5), -1, count + 1, base=2, dtype=torch.float64)
        levels[0] = 5.0  # logspace is off by a rounding
        plan = make_plan(options, levels, solver=solver)
        yield (run(plan, x, *models, extra_args={"cond_scale": cfg}) - exact).abs().max().item()


def slope(steps, errors):
    """The order of convergence: the power of 1 / steps with which errors fall."""
    return order(lambda size: dict(zip(steps, errors))[1 / size], [1 / count for count in steps])


@pytest.mark.parametrize("solver, expected", [("euler", 1), ("dpmpp_2m", 2)])
def test_without_an_extra_loop_the_order_is_the_solvers(solver, expected):
    """Unguided normal data, whose exact solution is known."""
    model, x, steps = Normal(share=0.0, cond=0.0, uncond=0.4), noisy(torch.float64, sigma=5.0), [32, 64, 128]
    exact = 0.4 + (x - 0.4) * math.sqrt((0.8**2 + 0.5**2) / (0.8**2 + 5.0**2))
    errors = list(errors_by_steps(solver, Options(interval=(0, 0)), exact, steps, x, (model, model), 0.0))
    assert slope(steps, errors) == pytest.approx(expected, abs=0.15)


def limit_of_the_extra_loop(x, options, models, cfg, steps=200):
    """The flow that a run approaches with many steps: to first order the extra loop adds (gamma go + gamma back) times
    the guidance of both models to the direction of the ordinary step. Runge-Kutta in log sigma."""
    strength = options.gamma_go + options.gamma_back

    def slope(x, time):
        sigma = math.exp(time)
        guidance = sum(model.eps(x, sigma, 1) - model.eps(x, sigma, 0) for model in models)
        return sigma * (models[0].eps(x, sigma, cfg) + strength * guidance)

    time, h = math.log(5.0), math.log(0.5 / 5.0) / steps
    for _ in range(steps):
        a = slope(x, time)
        b = slope(x + h / 2 * a, time + h / 2)
        c = slope(x + h / 2 * b, time + h / 2)
        d = slope(x + h * c, time + h)
        x, time = x + h / 6 * (a + 2 * b + 2 * c + d), time + h
    return x


@pytest.mark.parametrize("loop_order", ["denoise-first", "noise-first"])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_with_the_extra_loop_all_solvers_approach_one_limit(solver, loop_order):
    """At the first power of the step, which is the loop's own: a history that held anything but the ordinary moves'
    predictions would leave an error that does not fall."""
    models, x, steps = video_and_image(), noisy(torch.float64, sigma=5.0), [64, 128, 256]
    options = Options(gamma_go=0.6, gamma_back=0.4, loop_order=loop_order)
    exact = limit_of_the_extra_loop(x, options, models, 1.5)
    errors = list(errors_by_steps(solver, options, exact, steps, x, models, 1.5))
    assert slope(steps, errors) == pytest.approx(1, abs=0.15)
    assert errors[-1] < 0.05 * exact.std()


def noise_by_level(sigma, sigma_next):
    """Noise that depends on the two levels alone."""
    generator = torch.Generator().manual_seed(round(1000 * float(sigma) + 7 * float(sigma_next)))
    return torch.randn(SHAPE, dtype=torch.float64, generator=generator)


def test_dpmpp_2m_sde_takes_only_the_ordinary_moves():
    """The extra loop is Euler, and what the solver remembers is of ordinary steps alone."""
    video = Normal(0.9)
    options = Options(gamma_go=2, gamma_back=1, interval=(30, 60))
    first, *loop, second, _ = make_plan(options, [3.0, 2.0, 1.0, 0.5]).moves
    assert [move.kind for move in (first, *loop, second)] == ["ordinary", "go", "go", "back", "back", "ordinary"]

    def part(*moves):
        return Plan("IV-IV", 2, moves, "dpmpp_2m_sde")

    start = noisy(torch.float64, sigma=3.0)
    middle = run(part(first), start, noise_sampler=noise_by_level)
    x = run(Plan("IV-IV", 2, tuple(loop), "euler"), middle)
    denoised_last = video(start, start.new_full([3], 3.0), CFG)
    denoised = video(x, x.new_full([3], 2.0), CFG)
    h_last, h = math.log(3 / 2), math.log(2 / 1)
    weight = 1 - math.exp(-2 * h)
    x = 1 / 2 * math.exp(-h) * x + weight * (denoised + 0.5 * h / h_last * (denoised - denoised_last))
    x = x + noise_by_level(2.0, 1.0) * math.sqrt(weight)

    result = run(part(first, *loop, second), start, noise_sampler=noise_by_level)
    torch.testing.assert_close(result, x, rtol=0, atol=1e-9)


def test_lcm_puts_fresh_noise_on_what_the_model_answers():
    video, levels = Normal(0.9), [3.0, 2.0, 1.0, 0.0]
    plan = make_plan(Options(interval=(0, 0)), levels, solver="lcm")
    x = start = noisy(torch.float64, sigma=3.0)
    for sigma, sigma_next in zip(levels, levels[1:]):
        x = video(x, x.new_full([3], sigma), CFG)
        if sigma_next:
            x = x + noise_by_level(sigma, sigma_next) * sigma_next
    torch.testing.assert_close(run(plan, start, step_noise_sampler=noise_by_level), x, rtol=0, atol=1e-12)
    with_loop = make_plan(Options(gamma_go=0, gamma_back=0, form="VV-VV"), levels, solver="lcm")
    assert torch.isfinite(run(with_loop, start, step_noise_sampler=noise_by_level)).all()
    assert [move.kind for move in with_loop.moves if move.kind == "ordinary"] == ["ordinary"] * 3


@pytest.mark.parametrize("solver", ["dpmpp_2m_sde", "lcm"])
def test_noise_of_its_own_has_the_right_size(solver):
    """Without a noise sampler: from data of no spread at 0, what is left at sigma is noise of that deviation."""
    def zero(x, sigma, **args):
        return torch.zeros_like(x)

    plan = dataclasses.replace(make_plan(Options(interval=(0, 0)), [100.0, 2.0]), solver=solver)
    torch.manual_seed(0)
    x = torch.zeros(4, 4, 64, 64)
    first, second = run(plan, x, zero), run(plan, x, zero)
    assert first.std().item() == pytest.approx(2.0, rel=0.02)
    assert not torch.equal(first, second)


# --- another size for the image model

def test_the_image_model_looks_at_its_own_size():
    video, image = video_and_image()
    plan = dataclasses.replace(make_plan(Options(), LEVELS), image_size=(8, 10))
    result = run(plan, noisy(), video, image)
    assert result.shape == SHAPE
    assert {seen.shape for seen in video.seen} == {SHAPE}
    assert {seen.shape for seen in image.seen} == {(3, 2, 8, 10)}


def test_whole_multiples_of_the_size_change_nothing_for_a_model_of_pixels():
    """Nearest neighbours double every pixel and take one of each: a model without neighbours sees the same."""
    plan = make_plan(Options(), LEVELS)
    same = dataclasses.replace(plan, image_size=SHAPE[2:])
    doubled = dataclasses.replace(plan, image_size=(8, 10))
    assert torch.equal(run(plan, noisy()), run(same, noisy()))
    assert torch.equal(run(plan, noisy()), run(doubled, noisy()))


def test_a_smaller_size_takes_every_other_pixel():
    image = Normal(0.0, cond=1.3, uncond=-0.2)
    x = noisy(torch.float64, (3, 2, 4, 6), sigma=3.0)
    small = x[..., ::2, ::2]
    small = small + (2.0 - 3.0) * image.eps(small, 3.0, 4)
    expected = small.repeat_interleave(2, -2).repeat_interleave(2, -1)
    plan = Plan("", 1, (Move("image", "go", 3.0, 3.0, 2.0, 4.0, 0),), image_size=(2, 3))
    torch.testing.assert_close(run(plan, x), expected, rtol=0, atol=1e-12)


def test_area_and_bilinear_average_the_pixels_between():
    """Halving: both take the mean of each square of four pixels; the way back differs."""
    x = noisy(torch.float64, (3, 2, 4, 6), sigma=3.0)
    moves = (Move("image", "go", 3.0, 3.0, 2.0, 4.0, 0),)
    small = torch.nn.functional.avg_pool2d(x, 2)
    small = small + (2.0 - 3.0) * Normal(0.0, cond=1.3, uncond=-0.2).eps(small, 3.0, 4)
    area, bilinear = (run(Plan("", 1, moves, image_size=(2, 3), image_resize=way), x) for way in ("area", "bilinear"))
    torch.testing.assert_close(area, small.repeat_interleave(2, -2).repeat_interleave(2, -1), rtol=0, atol=1e-12)
    torch.testing.assert_close(bilinear[..., 0, 0], small[..., 0, 0], rtol=0, atol=1e-12)
    assert not torch.equal(area, bilinear)


def drift(way, side, image_side, smooth=False):
    """How far 50 steps carry a latent that no model changes, relative to its deviation."""
    x = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    if smooth:
        x = torch.nn.functional.interpolate(x[..., ::8, ::8], (side, side), mode="bicubic")
    options = Options(image_size=(8 * image_side, 8 * image_side), image_resize=way)
    plan = make_plan(options, karras_sigmas(50))
    result = sample_iv_mixed(lambda x, sigma, **args: x, x, karras_sigmas(50), disable=True, plan=plan)
    return ((result - x).std() / x.std()).item()


@pytest.mark.parametrize("side, image_side", [(40, 64), (32, 64), (64, 32), (64, 40), (48, 48)])
def test_the_change_alone_keeps_every_detail(side, image_side):
    assert drift("change", side, image_side) == 0.0


@pytest.mark.parametrize("way, side, smooth, least", [
    ("nearest", 40, False, 1.0),  # as far from the latent as another one
    ("nearest", 40, True, 0.5), ("bilinear", 40, False, 0.8), ("area", 40, False, 0.8), ("bilinear", 32, False, 0.8),
])
def test_whole_latents_there_and_back_lose_it(way, side, smooth, least):
    assert drift(way, side, 64, smooth) > least


def test_nearest_loses_nothing_where_sides_are_whole_multiples():
    assert drift("nearest", 32, 64) == 0.0


@pytest.mark.parametrize("way, strength", [("change", 1.0), ("nearest", 1.0), ("bilinear", 0.625), ("area", 1.0)])
def test_how_strong_noise_is_at_twice_the_size(way, strength):
    """An image model expects noise of its level: averages of neighbours weaken it."""
    seen, sigma = [], 5.0
    x = sigma * torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    plan = Plan("", 1, (Move("image", "go", sigma, sigma, 4.0, 1.0, 0),), image_size=(128, 128), image_resize=way)
    run(plan, x, image=lambda x, level, **args: seen.append(x) or torch.zeros_like(x))
    assert seen[0].std().item() / sigma == pytest.approx(strength, abs=0.02)


def test_at_twice_the_size_a_model_of_pixels_changes_the_same():
    x, options = noisy(shape=(3, 4, 32, 32)), Options(gamma_go=1, gamma_back=1)
    plain = run(make_plan(options, LEVELS), x)
    bridged = run(make_plan(dataclasses.replace(options, image_size=(512, 512)), LEVELS), x)
    torch.testing.assert_close(bridged, plain, rtol=1e-5, atol=1e-5)


# --- any run at all

@given(st.lists(st.floats(0.05, 60), min_size=2, max_size=6, unique=True), st.sampled_from(["IV-IV", "VV-VV", "II-II"]),
       st.floats(0, 3), st.floats(0, 100), st.sampled_from(["clamp", "skip"]), st.sampled_from(["sigma", "timestep"]))
def test_runs_are_repeatable_and_finite(levels, form, gamma, z_percent, above, match):
    options = Options(form=form, gamma_go=gamma, gamma_back=gamma, z_percent=z_percent, above_sigma_max=above,
                      schedule_match=match)
    levels = [*sorted(levels, reverse=True), 0.0]
    plan = make_plan(options, levels, Schedule.linear(), Schedule.scaled_linear())
    x = noisy(sigma=levels[0])
    result = run(plan, x)
    assert result.isfinite().all()
    assert torch.equal(result, run(Plan.from_dict(plan.to_dict()), x))


def test_a_plan_that_does_not_fit_the_sigmas_is_refused():
    plan = make_plan(Options(), [4.0, 2.0, 1.0, 0.0])
    for wrong in plan, Plan("IV-IV", 0, ()):
        with pytest.raises(ValueError, match="does not fit"):
            sample_iv_mixed(lambda x, sigma, **args: pytest.fail("evaluated"), torch.zeros(1, 4, 2, 2),
                            torch.tensor([4.0, 0.0]), disable=True, plan=wrong)


@pytest.mark.parametrize("name", SCHEDULES)
def test_euler_ancestral_is_k_diffusions_own(kdiffusion, name):
    """DDIM with eta 1, on a table without an input scale: within rounding, as levels are plain numbers here."""
    sigmas = SCHEDULES[name].double()
    x = noisy(torch.float64, sigma=float(sigmas[0]))
    args = {"extra_args": {"cond_scale": CFG}, "disable": True}
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    draws = [lambda *levels, g=g: torch.randn(x.shape, generator=g, dtype=x.dtype) for g in generators]
    expected = kdiffusion.sample_euler_ancestral(Normal(0.9), x, sigmas, noise_sampler=draws[0], **args)
    plan = make_plan(Options(interval=(0, 0)), sigmas, solver="euler_ancestral")
    result = sample_iv_mixed(Normal(0.9), x, sigmas, image_model=Normal(), plan=plan, noise_sampler=draws[1], **args)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    assert generators[0].get_state().equal(generators[1].get_state())

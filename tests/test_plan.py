"""The plan: moves that chain, counts, the choice of models, labels and gammas, and the released loops' structure."""
import dataclasses
import functools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ivmixed import Move, OptionError, Options, Plan, Schedule, make_plan, ramp, released_plan, sample_iv_mixed, spread
from ivmixed.cost import times_plain
from ivmixed.options import FORMS

from . import test_options

any_options = functools.partial(test_options.any_options, finish_smoothing=0)  # it moves nothing, and may be refused
IMAGE = Schedule.scaled_linear()
VIDEO = Schedule.linear()
LEVELS = [10.0, 6.0, 3.0, 1.0, 0.3, 0.0]  # five steps, of which the last ends at 0


@st.composite
def any_sigmas(draw):
    """Levels that descend, as a sampler gets them; mostly down to 0."""
    values = draw(st.lists(st.floats(2**-7, 200, width=32), min_size=2, max_size=12, unique=True))
    return sorted(values, reverse=True) + draw(st.sampled_from([[0.0], [0.0], []]))


tables = st.sampled_from([(None, None), (VIDEO, IMAGE), (IMAGE, IMAGE), (VIDEO, None), (None, IMAGE)])


def step_of(plan, i):
    return [move for move in plan.moves if move.step == i]


def extra(plan, i):
    return [move for move in step_of(plan, i) if move.kind != "ordinary"]


def active_steps(plan):
    return sorted({move.step for move in plan.moves if move.kind != "ordinary"})


# --- structure that every plan has

DENOISE_FIRST, NOISE_FIRST, SWAPPED = orders = [{"loop_order": choice} for choice in
                                                ("denoise-first", "noise-first", "animatediff")]


@given(any_options(**DENOISE_FIRST) | any_options(**NOISE_FIRST), any_sigmas(), tables)
def test_moves_chain_without_gaps(options, sigmas, schedules):
    plan = make_plan(options, sigmas, *schedules)
    assert plan.moves[0].sigma_from == sigmas[0]
    assert plan.moves[-1].sigma_to == sigmas[-1]
    for before, after in zip(plan.moves, plan.moves[1:]):
        assert after.sigma_from == before.sigma_to


@given(any_options(), any_sigmas(), tables)
def test_every_step_ends_with_one_ordinary_move_over_it(options, sigmas, schedules):
    plan = make_plan(options, sigmas, *schedules)
    assert [move.step for move in plan.moves] == sorted(move.step for move in plan.moves)
    for i in range(len(sigmas) - 1):
        *_, last = step_of(plan, i)
        assert [move.kind for move in step_of(plan, i)].count("ordinary") == 1
        label = sigmas[i] if last.model == "video" else last.sigma
        assert last == Move(last.model, "ordinary", label, sigmas[i], sigmas[i + 1], None, i)


@pytest.mark.parametrize("order, first, then", [(DENOISE_FIRST, "go", "back"), (NOISE_FIRST, "back", "go")])
@given(st.data(), any_sigmas(), tables)
def test_the_extra_loop_begins_and_ends_at_the_level_of_its_step(order, first, then, data, sigmas, schedules):
    plan = make_plan(data.draw(any_options(**order)), sigmas, *schedules)
    for i in active_steps(plan):
        loop = extra(plan, i)
        assert loop[0].sigma_from == loop[-1].sigma_to == sigmas[i]
        kinds = [move.kind for move in loop]
        assert kinds == [first] * kinds.count("go") + [then] * kinds.count("back")
        assert kinds.count("go") == kinds.count("back") in (1, 2)
        # inverted levels are those that were denoised
        went = [(move.sigma_from, move.sigma_to) for move in loop if move.kind == first]
        came = [(move.sigma_to, move.sigma_from) for move in loop if move.kind == then]
        assert came == went[::-1]


@given(any_options(**SWAPPED), any_sigmas(), tables)
def test_swapped_are_the_levels_of_the_two_denoising_moves_alone(options, sigmas, schedules):
    exact = {"reuse_percent": 0, "above_sigma_max": "clamp"}
    swapped, straight = (make_plan(dataclasses.replace(options, loop_order=order, **exact), sigmas, *schedules)
                         for order in ("animatediff", "denoise-first"))
    for i in range(len(sigmas) - 1):
        *go, first, second = extra(swapped, i) or [None, None]
        if len(go) != 2:
            assert [move and move.kind for move in (*go, first, second)][:2] in ([None, None], ["go", "back"])
            continue
        expected = extra(straight, i)
        assert [(move.sigma_from, move.sigma_to) for move in go[::-1]] == [
            (move.sigma_from, move.sigma_to) for move in expected[:2]]
        assert [(move.model, move.guidance) for move in go] == [
            (move.model, move.guidance) for move in expected[:2]]
        assert [first, second] == expected[2:]


@given(any_options(), any_sigmas(), tables)
def test_go_moves_denoise_and_back_moves_invert(options, sigmas, schedules):
    for move in make_plan(options, sigmas, *schedules).moves:
        assert move.model in (("image", "video", "noise") if move.kind == "back" else ("image", "video"))
        if move.kind == "back":
            assert move.sigma_to > move.sigma_from
            assert move.guidance is None if move.model == "noise" else math.copysign(1, move.guidance) == -1
        else:
            assert move.sigma_to < move.sigma_from
            assert move.guidance is None if move.kind == "ordinary" else math.copysign(1, move.guidance) == 1


@given(any_options(), any_sigmas(), tables)
def test_no_evaluation_happens_at_sigma_zero(options, sigmas, schedules):
    for move in make_plan(options, sigmas, *schedules).moves:
        assert move.sigma > 0
        assert move.sigma_from > 0


@given(any_options(), any_sigmas(), tables)
def test_counts_agree_with_the_denoisers_called(options, sigmas, schedules):
    plan = make_plan(options, sigmas, *schedules)
    calls = {"video": 0, "image": 0}

    def counting(model):
        latest = None

        def denoiser(x, sigma, **more):
            nonlocal latest
            calls[model] += x is not latest  # about a latent once more: another guidance, no evaluation
            latest = x
            return torch.zeros_like(x)
        return denoiser

    sample_iv_mixed(counting("video"), torch.ones(1, 1, 1, 1), torch.tensor(sigmas), disable=True,
                    image_model=counting("image"), plan=plan)
    assert calls == {"video": plan.count("video"), "image": plan.count("image")}
    assert sum(calls.values()) == plan.evaluations
    assert plan.steps == len(sigmas) - 1
    assert plan.active_steps == len(active_steps(plan))
    outer = sum(move.reuse == "features" for move in plan.moves)
    assert plan.describe() == (
        f"{options.form}, {plan.active_steps} of {plan.steps} steps active, "
        f"{sum(calls.values())} evaluations ({calls['video']} video, {calls['image']} image"
        + (f"; {outer} of outer layers only)" if outer else ")")
        + (f", the last {plan.finishing_steps} steps by the image model" if plan.finishing_steps else "")
    )


@given(any_options(), any_sigmas(), tables)
def test_only_what_was_predicted_is_reused(options, sigmas, schedules):
    known = set()
    for move in make_plan(options, sigmas, *schedules).moves:
        assert not move.reuse or (move.model in known and move.kind != "ordinary")
        known.add(move.model)


@given(any_options(), any_sigmas(), tables)
def test_reuse_changes_nothing_else_of_a_plan(options, sigmas, schedules):
    exact = dataclasses.replace(options, reuse_percent=0)
    moves = [dataclasses.replace(move, reuse="") for move in make_plan(options, sigmas, *schedules).moves]
    assert tuple(moves) == make_plan(exact, sigmas, *schedules).moves


@given(any_options(), any_sigmas(), tables)
def test_round_trip_through_json(options, sigmas, schedules):
    plan = make_plan(options, sigmas, *schedules)
    assert Plan.from_dict(json.loads(plan.to_json())) == plan
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize("changed", [
    {"solver": "dpmpp_2m_sde"}, {"rescale": 0.5}, {"image_size": (64, 48)}, {"image_resize": "area"},
    {"image_attention": "first"}, {"smoothing": 0.5}, {"form": "other"}, {"steps": 7},
    {"moves": (dataclasses.replace(make_plan(Options(), LEVELS).moves[2], reuse="features"),)},
])
def test_json_carries_every_field(changed):
    plan = make_plan(Options(), LEVELS)
    other = dataclasses.replace(plan, **changed)
    assert Plan.from_dict(json.loads(other.to_json())) == other != plan


@given(any_options(), any_sigmas(), tables)
def test_a_plan_is_the_same_from_a_list_and_a_tensor(options, sigmas, schedules):
    assert make_plan(options, torch.tensor(sigmas), *schedules) == make_plan(options, sigmas, *schedules)


def test_a_plan_does_not_change():
    plan = make_plan(Options(), LEVELS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.steps = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.moves[0].sigma = 3.0
    with pytest.raises(TypeError):
        plan.moves[0] = plan.moves[1]
    assert hash(plan) == hash(make_plan(Options(), LEVELS))


@pytest.mark.parametrize("sigmas", [
    [], [1.0], [0.0], [1.0, 1.0, 0.0], [0.0, 1.0], [1.0, 2.0, 3.0], [3.0, 1.0, 2.0, 0.0], [1.0, 0.0, 0.0], [1.0, -1.0],
    [math.nan, 1.0, 0.0], [2.0, math.nan, 0.0], [2.0, 1.0, math.nan], [math.inf, 1.0, 0.0],
])
def test_sigmas_that_do_not_descend_to_zero_or_above_are_refused(sigmas):
    with pytest.raises(ValueError, match="sigmas"):
        make_plan(Options(), sigmas)
    with pytest.raises(ValueError, match="sigmas"):
        make_plan(Options(interval=(0, 0)), torch.tensor(sigmas))


# --- the five rows

def test_an_active_step_is_the_five_rows_of_the_design():
    options = Options(gamma_image_go=1, gamma_go=2, gamma_image_back=3, gamma_back=5)
    a, b, c = LEVELS[1:4]
    assert step_of(make_plan(options, LEVELS), 1) == [
        Move("image", "go", a, a, b, 1.0, 1),
        Move("video", "go", b, b, c, 2.0, 1),
        Move("image", "back", c, c, b, -3.0, 1),
        Move("video", "back", b, b, a, -5.0, 1),
        Move("video", "ordinary", a, a, b, None, 1),
    ]


def test_the_last_step_is_plain_and_the_one_before_goes_to_the_smallest_sigma():
    plan = make_plan(Options(), LEVELS, VIDEO, IMAGE)
    assert active_steps(plan) == [0, 1, 2, 3]
    assert plan.evaluations == 4 * 5 + 1
    assert [(move.sigma_from, move.sigma_to) for move in extra(plan, 3)] == [
        (1.0, 0.3), (0.3, VIDEO.sigma_min), (VIDEO.sigma_min, 0.3), (0.3, 1.0)]


def test_the_smallest_sigma_is_the_video_models():
    small = Schedule.from_sigmas([0.1, 20.0])
    large = Schedule.from_sigmas([0.2, 20.0])
    assert extra(make_plan(Options(), LEVELS, small, large), 3)[1].sigma_to == 0.1
    assert extra(make_plan(Options(), LEVELS, large, small), 3)[1].sigma_to == 0.2


@pytest.mark.parametrize("schedule", [None, VIDEO])
def test_moves_without_length_are_left_out(schedule):
    """A schedule that ends in the smallest sigma, as the host's own does: c would be b."""
    sigma_min = VIDEO.sigma_min
    plan = make_plan(Options(gamma_image_go=1, gamma_back=2), [1.0, 0.3, sigma_min, 0.0], schedule)
    assert step_of(plan, 1) == [
        Move("image", "go", 0.3, 0.3, sigma_min, 1.0, 1),
        Move("video", "back", sigma_min, sigma_min, 0.3, -2.0, 1),
        Move("video", "ordinary", 0.3, 0.3, sigma_min, None, 1),
    ]
    assert plan.evaluations == 5 + 3 + 1


def test_the_smallest_sigma_is_known_in_float32_too():
    sigmas = torch.tensor([1.0, 0.3, VIDEO.sigma_min, 0.0])
    assert sigmas[2].item() != VIDEO.sigma_min
    assert make_plan(Options(), sigmas, VIDEO, IMAGE).evaluations == 5 + 3 + 1


def test_below_the_smallest_sigma_nothing_is_inverted_upwards_first():
    """A schedule may end below the table: then c is b, never a level above it."""
    plan = make_plan(Options(), [1.0, 0.3, 0.01, 0.0], VIDEO, IMAGE)
    assert [move.sigma_to for move in extra(plan, 1)] == [0.01, 0.3]


def test_a_schedule_that_stops_above_zero_has_a_plain_last_step_too():
    plan = make_plan(Options(), [10.0, 6.0, 3.0], VIDEO, IMAGE)
    assert len(step_of(plan, 0)) == 5
    assert step_of(plan, 1) == [Move("video", "ordinary", 6.0, 6.0, 3.0, None, 1)]


@pytest.mark.parametrize("steps, evaluations", [(1, 1), (2, 1 + 3), (3, 1 + 3 + 5), (25, 1 + 3 + 23 * 5)])
def test_evaluations_of_a_whole_run_without_tables(steps, evaluations):
    plan = make_plan(Options(), [float(steps - i) for i in range(steps + 1)])
    assert plan.evaluations == evaluations


# --- the order of the extra loop

def test_the_loop_that_goes_up_first_is_the_mirrored_five_rows():
    options = Options(gamma_image_go=1, gamma_go=2, gamma_image_back=3, gamma_back=5,
                      loop_order="noise-first")
    first, second, a, b = LEVELS[:4]
    plan = make_plan(options, LEVELS)
    assert step_of(plan, 2) == [
        Move("image", "back", a, a, second, -3.0, 2),
        Move("video", "back", second, second, first, -5.0, 2),
        Move("image", "go", first, first, second, 1.0, 2),
        Move("video", "go", second, second, a, 2.0, 2),
        Move("video", "ordinary", a, a, b, None, 2),
    ]
    assert [len(step_of(plan, i)) for i in range(5)] == [1, 3, 5, 5, 5], "the first step has no level above it"


@pytest.mark.parametrize("steps", [1, 2, 5, 25])
def test_both_orders_cost_the_same(steps):
    levels = [float(steps - i) for i in range(steps + 1)]
    first, second = (make_plan(Options(loop_order=order), levels) for order in ("denoise-first", "noise-first"))
    assert first.evaluations == second.evaluations


@pytest.mark.parametrize("form", ["IV-IV", "II-VI", "RR-VV"])
def test_no_move_is_above_the_first_level(form):
    plan = make_plan(Options(form=form, loop_order="noise-first"), LEVELS, VIDEO, IMAGE)
    assert max(max(move.sigma_from, move.sigma_to) for move in plan.moves) == LEVELS[0]


def test_the_swapped_order_is_that_of_the_released_animatediff_loop():
    """Ten steps of 100 timesteps; the released loop's second step begins at 888."""
    released = step_of(released_plan("animatediff", 10, IMAGE), 1)[:4]
    levels = [IMAGE.sigmas[t] for t in (888, 788, 688, 588)]
    own = extra(make_plan(Options(loop_order="animatediff"), levels, IMAGE, IMAGE), 0)
    assert own == [dataclasses.replace(move, step=0) for move in released]


# --- which steps, which models

@pytest.mark.parametrize("interval, active", [
    ((0, 100), range(9)), ((0, 50), range(5)), ((50, 100), range(5, 9)), ((20, 40), [2, 3]), ((25, 45), [3, 4]),
    ((30, 30), []), ((0, 0), []), ((100, 100), []), ((0, 0.1), [0]), ((80, 100), [8]), ((90, 100), []),
])
def test_interval_in_percent_of_the_steps(interval, active):
    plan = make_plan(Options(interval=interval), [float(10 - i) for i in range(11)])
    assert active_steps(plan) == list(active)
    assert plan.active_steps == len(active)


@given(st.integers(1, 60), st.integers(0, 100))
def test_two_intervals_that_meet_make_the_whole(steps, middle):
    sigmas = [float(steps - i) for i in range(steps + 1)]
    first, second = (active_steps(make_plan(Options(interval=i), sigmas)) for i in ((0, middle), (middle, 100)))
    assert first + second == active_steps(make_plan(Options(), sigmas))


@pytest.mark.parametrize("form, models", [
    ("IV-IV", ["image", "video", "image", "video"]),
    ("VV-VV", ["video"] * 4),
    ("II-II", ["image"] * 4),
    ("RR-IV", ["image", "video", "noise", "noise"]),
    ("IR-VI", ["video", "image", "image", "noise"]),
    ("RV-VV", ["video", "video", "noise", "video"]),
])
def test_forms(form, models):
    plan = make_plan(Options(form=form), LEVELS)
    assert plan.form == form
    for i in range(3):
        assert [move.model for move in step_of(plan, i)] == [*models, "video"]
    assert plan.evaluations == sum(move.model != "noise" for move in plan.moves)


def test_every_form_that_means_something_is_there():
    """Two letters that add noise, two that remove it: R cannot."""
    assert len(set(FORMS)) == len(FORMS) == 3 * 3 * 2 * 2
    assert FORMS[:3] == ("IV-IV", "VV-VV", "II-II")
    with pytest.raises(OptionError, match="noise R cannot remove noise"):
        Options(form="IV-RV")


def test_a_gamma_goes_to_its_own_model_and_direction():
    gammas = {("image", "go"): 1.0, ("image", "back"): 2.0, ("video", "go"): 3.0, ("video", "back"): 5.0}
    values = {f"gamma_{'image_' * (model == 'image')}{direction}": value
              for (model, direction), value in gammas.items()}
    for form in "IV-IV", "VV-VV", "II-II":
        for move in make_plan(Options(form=form, **values), LEVELS).moves:
            if move.kind != "ordinary":
                assert move.guidance == gammas[move.model, move.kind] * (1 if move.kind == "go" else -1)


def test_gammas_follow_the_ramp_over_the_steps():
    options = Options(gamma_go=(6, 2), gamma_back=(1, 9), rho=3)
    plan = make_plan(options, LEVELS)
    for move in plan.moves:
        if move.kind == "go":
            assert move.guidance == ramp(6, 2, move.step / 4, 3)
        if move.kind == "back":
            assert move.guidance == -ramp(1, 9, move.step / 4, 3)
    assert plan.moves[0].guidance == 6.0


def test_gammas_follow_their_curve_over_the_steps():
    plan = make_plan(Options(gamma_go="0=8 50=2", gamma_back=1), LEVELS)
    assert [{move.guidance for move in extra(plan, i) if move.kind == "go"} for i in range(4)] == [{8}, {5}, {2}, {2}]
    assert {move.guidance for move in plan.moves if move.kind == "back"} == {-1}


def test_rescaling_is_of_the_whole_plan_and_costs_nothing():
    plain, rescaled = (make_plan(Options(guidance_rescale=share), LEVELS) for share in (0, 0.7))
    assert rescaled == dataclasses.replace(plain, rescale=0.7)
    assert rescaled.evaluations == plain.evaluations
    assert rescaled.reuses("prediction") and not plain.reuses("prediction")


@given(any_sigmas())
def test_gammas_of_an_interval_are_those_of_the_whole_run(sigmas):
    options = Options(gamma_go=(6, 2), gamma_back=(1, 9))
    whole = make_plan(options, sigmas)
    part = make_plan(dataclasses.replace(options, interval=(30, 70)), sigmas)
    for i in active_steps(part):
        assert step_of(part, i) == step_of(whole, i)


# --- fewer evaluations

def pattern(plan, i):
    """The moves of a step: a letter for an evaluation (small: image), a dot for a reused prediction."""
    letters = {"image": "i", "video": "V"}
    return "".join("." if move.reuse else letters[move.model] for move in step_of(plan, i))


@pytest.mark.parametrize("form, step, last", [("IV-IV", "iV..V", "iVV"), ("VV-VV", "VV..V", "V.V"),
                                              ("II-II", "ii..V", "i.V")])
def test_half_of_the_extra_moves_reuse_what_the_others_found(form, step, last):
    """In the last active step b is the smallest level, so of four moves two are left: a to b, and back."""
    plan = make_plan(Options(form=form, reuse_percent=50), LEVELS)
    assert [pattern(plan, i) for i in range(5)] == [step] * 3 + [last, "V"]
    assert plan.evaluations == sum(3 if i < 3 else len(last.replace(".", "")) if i == 3 else 1 for i in range(5))


def test_less_than_half_is_of_some_loops():
    plan = make_plan(Options(reuse_percent=25), [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert [pattern(plan, i) for i in range(4)] == ["iV..V", "iViVV", "iV..V", "iViVV"]


def test_more_than_half_is_whole_loops_too():
    """The first asks what was not asked yet: the image model here, as the video model made the plain step before."""
    late = make_plan(Options(reuse_percent=100, interval=(40, 100)), LEVELS)
    assert [pattern(late, i) for i in range(5)] == ["V", "V", "i...V", "..V", "V"]
    both = make_plan(Options(reuse_percent=75), LEVELS)
    assert [pattern(both, i) for i in range(5)] == ["iV..V", "iV..V", "....V", "iVV", "V"]


def test_the_second_half_of_a_loop_is_the_one_that_comes_later():
    plan = make_plan(Options(reuse_percent=50, loop_order="noise-first"), LEVELS)
    assert {move.kind for move in plan.moves if move.reuse} == {"go"}
    assert [pattern(plan, i) for i in range(5)] == ["V", "iVV", "iV..V", "iV..V", "iV..V"]


@settings(max_examples=25)
@given(st.floats(0, 100), st.sampled_from(["denoise-first", "noise-first"]))
def test_the_share_of_moves_that_reuse_is_the_one_that_was_asked_for(percent, order):
    """Of the form VV-VV, whose model is always known: within a loop, half of which is the unit."""
    options = Options(form="VV-VV", reuse_percent=percent, loop_order=order)
    plan = make_plan(options, [float(n) for n in range(99, -1, -1)])
    extra_moves = [move for move in plan.moves if move.kind != "ordinary"]
    assert sum(bool(move.reuse) for move in extra_moves) == pytest.approx(len(extra_moves) * percent / 100, abs=4)


@given(any_options(), any_sigmas(), tables)
def test_features_are_reused_where_predictions_would_be(options, sigmas, schedules):
    """Each of these moves is then an evaluation, if a cheaper one."""
    options = dataclasses.replace(options, guidance_rescale=0)
    predictions, features = (make_plan(dataclasses.replace(options, reused=what), sigmas, *schedules)
                             for what in ("prediction", "features"))
    swapped = tuple(dataclasses.replace(move, reuse=move.reuse and "features") for move in predictions.moves)
    assert features.moves == swapped
    assert features.evaluations - predictions.evaluations == sum(bool(move.reuse) for move in features.moves)
    assert features.reuses("features") == predictions.reuses("prediction")
    assert not features.reuses("prediction")


@given(any_options(), any_sigmas())
def test_active_percent_keeps_its_share_of_the_interval(options, sigmas):
    whole = active_steps(make_plan(dataclasses.replace(options, active_percent=100), sigmas))
    kept = spread(options.active_percent, len(whole))
    assert active_steps(make_plan(options, sigmas)) == [i for i, chosen in zip(whole, kept) if chosen]


def test_active_percent_leaves_the_moves_of_its_steps_alone():
    whole, half = (make_plan(Options(gamma_go=(6, 2), active_percent=percent), LEVELS) for percent in (100, 50))
    assert active_steps(half) == [1, 3]
    assert all(step_of(half, i) == step_of(whole, i) for i in (1, 3))


# --- z percent

@given(st.floats(0, 100), st.integers(0, 100))
def test_spread_is_even(percent, count):
    flags = spread(percent, count)
    assert len(flags) == count
    assert abs(sum(flags) - count * percent / 100) <= 0.5 + 1e-9, "the total is rounded"
    for n in range(count):
        assert abs(sum(flags[:n]) - n * sum(flags) / count) < 1


def test_spread_of_a_few():
    assert spread(0, 4) == (False,) * 4
    assert spread(100, 4) == (True,) * 4
    assert spread(50, 6) == (False, True) * 3
    assert spread(50, 0) == ()


@pytest.mark.parametrize("percent, pattern", [
    (33.3, (False, False, True)), (33.4, (False, False, True)),
    (66.6, (False, True, True)), (66.7, (False, True, True)),
])
@pytest.mark.parametrize("thirds", [1, 2, 8, 16, 33])
def test_thirds(percent, pattern, thirds):
    """33.3 is the released ``zz = 3``: the image model serves in two steps and not in the third."""
    assert spread(percent, 3 * thirds) == pattern * thirds


@given(any_options(), any_sigmas())
def test_z_percent_replaces_its_share_of_the_active_steps(options, sigmas):
    options = dataclasses.replace(options, form="IV-IV", loop_order="denoise-first", above_sigma_max="clamp")
    plan = make_plan(options, sigmas)
    active = active_steps(plan)
    plain = [i for i in active if all(move.model == "video" for move in extra(plan, i))]
    count = round(len(active) * options.z_percent / 100)
    assert plain == {"even": [i for i, chosen in zip(active, spread(options.z_percent, len(active))) if chosen],
                     "first": active[:count], "last": active[len(active) - count:]}[options.z_pattern]


def test_a_replaced_step_is_a_step_of_vv_vv():
    options = Options(form="II-II", z_percent=50, gamma_image_go=1, gamma_go=2, gamma_back=3)
    plan = make_plan(options, LEVELS)
    plain = make_plan(dataclasses.replace(options, form="VV-VV", z_percent=0), LEVELS)
    pure = make_plan(dataclasses.replace(options, z_percent=0), LEVELS)
    for i in range(4):
        assert step_of(plan, i) == step_of(plain if i % 2 else pure, i)


def test_z_percent_of_the_recorded_loops():
    """z = 33.3 chooses the models that the released VideoCrafter loop has with zz = 3, over nine steps."""
    released = released_plan("videocrafter", 9, IMAGE, zz=3)
    served = [extra(released, i)[0].model for i in range(9)]
    plan = make_plan(Options(z_percent=33.3), [float(10 - i) for i in range(11)])
    assert [extra(plan, i)[0].model for i in range(9)] == served == ["image", "image", "video"] * 3


# --- the last ordinary steps by the image model

def automatic(steps):
    """The WebUI's schedule "Automatic" of AnimateDiff's table."""
    return [*(VIDEO.timestep_to_sigma(999 * (1 - k / max(steps - 1, 1))) for k in range(steps)), 0.0]


def finishing(plan):
    return [move.step for move in plan.moves if move.kind == "ordinary" and move.model == "image"]


@settings(max_examples=25)
@given(any_options(finish_percent=0.0), any_sigmas(), tables, st.sampled_from(["timesteps", "steps"]))
def test_without_a_finish_ordinary_moves_are_the_video_models(options, sigmas, schedules, by):
    plan = make_plan(dataclasses.replace(options, finish_by=by), sigmas, *schedules)
    assert finishing(plan) == [] and plan.finishing_steps == 0
    assert plan == make_plan(options, sigmas, *schedules)


@settings(max_examples=25)
@given(any_options(above_sigma_max="clamp", **DENOISE_FIRST), any_sigmas(), tables)
def test_a_finish_changes_the_model_of_the_last_ordinary_moves_alone(options, sigmas, schedules):
    """And what is reused, where predictions serve again."""
    def bare(plan):
        return [dataclasses.replace(move, reuse="", **{"model": "", "sigma": 0.0} if move.kind == "ordinary" else {})
                for move in plan.moves]

    plan = make_plan(options, sigmas, *schedules)
    assert bare(plan) == bare(make_plan(dataclasses.replace(options, finish_percent=0), sigmas, *schedules))
    steps = len(sigmas) - 1
    assert finishing(plan) == list(range(steps - plan.finishing_steps, steps))
    assert plan.plain == (plan.active_steps == plan.finishing_steps == 0)


@pytest.mark.parametrize("percent, by, steps, count", [
    (20, "steps", 25, 5), (20, "steps", 10, 2), (100, "steps", 25, 25), (1, "steps", 25, 0), (50, "steps", 1, 0),
    (20, "timesteps", 50, 9), (20, "timesteps", 25, 5), (20, "timesteps", 15, 4), (20, "timesteps", 10, 4),
    (20, "timesteps", 7, 3), (20, "timesteps", 4, 2), (20, "timesteps", 1, 0), (1, "timesteps", 25, 4),
    (100, "timesteps", 25, 25), (100, "timesteps", 1, 1), (50, "timesteps", 25, 11),
])
def test_how_many_steps_the_image_model_finishes(percent, by, steps, count):
    options = Options(interval=(0, 0), finish_percent=percent, finish_by=by)
    plan = make_plan(options, automatic(steps), VIDEO, IMAGE)
    assert finishing(plan) == list(range(steps - count, steps))
    assert (plan.count("video"), plan.count("image")) == (steps - count, count)


@settings(max_examples=25)
@given(st.integers(9, 200), st.floats(1, 100))
def test_it_takes_over_at_the_step_nearest_to_its_timestep(steps, percent):
    sigmas = automatic(steps)
    plan = make_plan(Options(finish_percent=percent), sigmas, VIDEO, IMAGE)
    distances = [abs(IMAGE.sigma_to_timestep(sigma) - 10 * percent) for sigma in sigmas]
    if plan.finishing_steps > 4:
        assert distances[steps - plan.finishing_steps] == min(distances)
    else:
        assert min(distances) in distances[-5:]


def test_without_the_image_models_table_a_share_is_one_of_the_steps():
    assert finishing(make_plan(Options(finish_percent=20), LEVELS)) == [4]


@pytest.mark.parametrize("options, labels", [
    ({}, [IMAGE.sigma_max, 8.0, 1.0]),
    ({"schedule_match": "timestep"}, [IMAGE.timestep_to_sigma(VIDEO.sigma_to_timestep(sigma)) for sigma in (20, 8, 1)]),
    ({"above_sigma_max": "skip"}, [20.0, 8.0, 1.0]),
])
def test_its_ordinary_moves_are_labelled_as_its_others(options, labels):
    plan = make_plan(Options(interval=(0, 0), finish_percent=100, **options), [20.0, 8.0, 1.0, 0.0], VIDEO, IMAGE)
    first = "video" if options.get("above_sigma_max") == "skip" else "image"
    assert [(move.model, move.sigma) for move in plan.moves] == list(zip([first, "image", "image"], labels))
    assert [(move.sigma_from, move.sigma_to, move.guidance) for move in plan.moves] == [
        (20.0, 8.0, None), (8.0, 1.0, None), (1.0, 0.0, None)]


def test_a_finish_is_cheaper_than_plain_and_says_so():
    plan = make_plan(Options(finish_percent=20).plain(), automatic(25), VIDEO, IMAGE)
    assert plan.plain and times_plain(plan) == 1
    plan = make_plan(Options(finish_percent=20, interval=(0, 0)), automatic(25), VIDEO, IMAGE)
    assert not plan.plain
    assert times_plain(plan) == pytest.approx((20 + 5 * 0.72) / 25)
    assert plan.describe() == ("IV-IV, 0 of 25 steps active, 25 evaluations (20 video, 5 image), "
                               "the last 5 steps by the image model")


def test_a_smaller_image_size_does_not_go_with_a_finish():
    plan = make_plan(Options(finish_percent=20, image_size=(64, 96)), automatic(25), VIDEO, IMAGE)
    plan.check_size(12, 8)
    with pytest.raises(OptionError, match=r"image_size = '8x12' cannot be used with finish_percent.*take 16x8"):
        plan.check_size(8, 16)
    make_plan(Options(image_size=(64, 96)), automatic(25), VIDEO, IMAGE).check_size(8, 16)


# --- two noise tables

@given(any_sigmas())
def test_at_equal_sigma_only_the_image_models_label_is_clamped(sigmas):
    plan = make_plan(Options(), sigmas, VIDEO, IMAGE)
    free = make_plan(Options(), sigmas, VIDEO)
    for move, unclamped in zip(plan.moves, free.moves, strict=True):
        expected = min(move.sigma_from, IMAGE.sigma_max) if move.model == "image" else move.sigma_from
        assert move.sigma == expected
        assert dataclasses.replace(move, sigma=move.sigma_from) == unclamped


def test_clamping_happens_in_the_video_models_first_steps():
    plan = make_plan(Options(), [VIDEO.sigma_max, 20.0, 10.0, 5.0, 0.0], VIDEO, IMAGE)
    labels = [(move.sigma, move.sigma_from) for move in plan.moves if move.model == "image"]
    assert labels[:3] == [(IMAGE.sigma_max, VIDEO.sigma_max), (10.0, 10.0), (IMAGE.sigma_max, 20.0)]


@given(any_sigmas())
def test_at_equal_timestep_the_label_is_the_image_tables_entry(sigmas):
    plan = make_plan(Options(schedule_match="timestep"), sigmas, VIDEO, IMAGE)
    for move in plan.moves:
        if move.model == "video":
            assert move.sigma == move.sigma_from
        else:
            timestep = VIDEO.sigma_to_timestep(move.sigma_from)
            assert IMAGE.sigma_to_timestep(move.sigma) == pytest.approx(timestep, abs=1e-6)


def test_at_equal_timestep_a_whole_timestep_is_met_exactly():
    levels = [VIDEO.sigmas[999], VIDEO.sigmas[600], VIDEO.sigmas[200], 0.0]
    plan = make_plan(Options(schedule_match="timestep"), levels, VIDEO, IMAGE)
    go, back = (move for move in plan.moves if move.model == "image" and move.step == 0)
    assert (go.sigma_from, go.sigma) == (VIDEO.sigmas[999], IMAGE.sigmas[999])
    assert (back.sigma_from, back.sigma) == (VIDEO.sigmas[200], IMAGE.sigmas[200])


@given(any_sigmas())
def test_skipped_moves_are_the_video_models_with_its_own_gamma(sigmas):
    options = Options(gamma_image_go=1, gamma_image_back=2, gamma_go=3, gamma_back=5)
    clamped = make_plan(options, sigmas, VIDEO, IMAGE)
    skipped = make_plan(dataclasses.replace(options, above_sigma_max="skip"), sigmas, VIDEO, IMAGE)
    for before, after in zip(clamped.moves, skipped.moves, strict=True):
        if before.model == "image" and before.sigma_from > IMAGE.sigma_max * (1 + 1e-6):
            gamma = 3.0 if before.kind == "go" else -5.0
            assert after == dataclasses.replace(before, model="video", guidance=gamma, sigma=before.sigma_from)
        else:
            assert after == before


@given(any_sigmas())
def test_at_equal_timestep_nothing_is_above_the_image_models_table(sigmas):
    options = Options(schedule_match="timestep")
    skipped = make_plan(dataclasses.replace(options, above_sigma_max="skip"), sigmas, VIDEO, IMAGE)
    assert skipped == make_plan(options, sigmas, VIDEO, IMAGE)


def test_skipping_leaves_the_largest_sigma_itself_to_the_image_model():
    """Samplers compute their first level in float32, where it may exceed the table's last entry by a rounding."""
    for above in 1.0, 1 + 1e-7:
        plan = make_plan(Options(above_sigma_max="skip"), [IMAGE.sigma_max * above, 5.0, 1.0, 0.0], IMAGE, IMAGE)
        assert plan.moves[0].model == "image"


@pytest.mark.parametrize("above", ["clamp", "skip"])
@pytest.mark.parametrize("match", ["sigma", "timestep"])
def test_a_video_table_that_ends_in_nothing_but_noise(match, above):
    """Zero terminal SNR: sigma 4096, three hundred times the image model's largest."""
    video = Schedule([*(1 / (1 + sigma**2) for sigma in IMAGE.sigmas[:-1]), 0.0])
    levels = [video.timestep_to_sigma(999 * (1 - k / 9)) for k in range(10)] + [0.0]
    plan = make_plan(Options(schedule_match=match, above_sigma_max=above), levels, video, IMAGE)
    assert plan.moves[0].sigma_from > 4000
    assert all(move.sigma <= IMAGE.sigma_max for move in plan.moves if move.model == "image")
    skipped = match == "sigma" and above == "skip"
    assert plan.moves[0].model == ("video" if skipped else "image")


@pytest.mark.parametrize("loop_order", ["denoise-first", "animatediff"])
@pytest.mark.parametrize("kept", [1, 2, 7, 15])
def test_a_shortened_schedule_makes_the_moves_of_the_whole_ones_end(kept, loop_order):
    """img2img: a part of the steps of one schedule."""
    levels = [VIDEO.timestep_to_sigma(999 * (1 - k / 19)) for k in range(20)] + [0.0]
    options = Options(loop_order=loop_order)
    whole, part = (make_plan(options, part, VIDEO, IMAGE) for part in (levels, levels[-kept - 1:]))
    moved = [dataclasses.replace(move, step=move.step - 20 + kept) for move in whole.moves if move.step >= 20 - kept]
    assert list(part.moves) == moved


def test_without_the_penultimate_sigma_the_last_active_step_goes_to_the_smallest_level():
    """The host's "always discard next-to-last sigma"."""
    levels = [VIDEO.timestep_to_sigma(999 * (1 - k / 9)) for k in range(9)] + [0.0]
    plan = make_plan(Options(), levels, VIDEO, IMAGE)
    assert plan.evaluations == 5 * 8 + 1
    assert [move.sigma_to for move in extra(plan, 7)] == [levels[8], VIDEO.sigma_min, levels[8], levels[7]]


# --- the released loops

LOOPS = ["animatediff", "modelscope", "videocrafter"]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("steps", [2, 8, 25, 50])
def test_released_loops_have_five_moves_a_step(loop, steps):
    plan = released_plan(loop, steps, IMAGE)
    assert plan.steps == plan.active_steps == steps
    assert plan.evaluations == 5 * steps
    assert (plan.count("image"), plan.count("video")) == (2 * steps, 3 * steps)
    for i in range(steps):
        assert [move.kind for move in step_of(plan, i)] == ["go", "go", "back", "back", "ordinary"]
        assert [move.model for move in step_of(plan, i)] == ["image", "video", "image", "video", "video"]
        assert [move.guidance for move in step_of(plan, i)] == [4.0, 4.0, -4.0, -4.0, 7.5]


def timesteps(moves):
    """(asked at, from, to) in timesteps of the table."""
    return [tuple(round(IMAGE.sigma_to_timestep(s)) for s in (m.sigma, m.sigma_from, m.sigma_to)) for m in moves]


def test_released_rows_of_a_step_in_the_middle():
    """Ten steps of 100 timesteps; the linspace of the outer steps has 888 second."""
    assert timesteps(step_of(released_plan("modelscope", 10, IMAGE), 1)) == [
        (888, 888, 788), (788, 788, 688), (688, 688, 788), (788, 788, 888), (888, 888, 788)]


def test_animatediffs_go_rows_are_swapped_in_time():
    modelscope, animatediff = (step_of(released_plan(loop, 10, IMAGE), 1) for loop in ("modelscope", "animatediff"))
    assert timesteps(animatediff[:2]) == [(788, 788, 688), (888, 888, 788)]
    assert [move.model for move in animatediff[:2]] == ["image", "video"]
    assert animatediff[2:] == modelscope[2:]


def test_released_levels_stop_at_timestep_zero():
    last = step_of(released_plan("modelscope", 10, IMAGE), 9)
    assert timesteps(last) == [(0, 0, 0)] * 5
    assert all(move.sigma == IMAGE.sigma_min for move in last)


def test_released_interval_counts_steps_and_includes_both_ends():
    assert active_steps(released_plan("animatediff", 10, IMAGE, interval=(2, 5))) == [2, 3, 4, 5]
    assert released_plan("animatediff", 10, IMAGE, interval=(100, 100)).evaluations == 10


@pytest.mark.parametrize("loop, vv_gamma", [("animatediff", 2.0), ("videocrafter", 1.0)])
def test_released_zz(loop, vv_gamma):
    plan = released_plan(loop, 9, IMAGE, zz=3, gamma_image=(1, 1), gamma_video=(2, 2))
    for i in range(9):
        models = [move.model for move in extra(plan, i)]
        assert models == (["video"] * 4 if i % 3 == 2 else ["image", "video"] * 2)
        own = vv_gamma if i % 3 == 2 else 1.0
        assert [move.guidance for move in extra(plan, i)] == [own, 2.0, -own, -2.0]


def test_modelscope_has_no_zz():
    assert released_plan("modelscope", 9, IMAGE, zz=3) == released_plan("modelscope", 9, IMAGE)


def test_zz_1_is_the_form_vv_vv():
    plan = released_plan("animatediff", 6, IMAGE, zz=1)
    assert plan.form == "VV-VV"
    assert plan.count("image") == 0


@pytest.mark.parametrize("steps", [8, 50, 60, 100])
def test_released_ramps_have_fifty_points_whatever_the_steps(steps):
    whole = 0, steps - 1
    plan = released_plan("animatediff", steps, IMAGE, gamma_image=(6, 2), gamma_video=(1, 3), interval=whole)
    for i in range(steps):
        u = min(i / 49, 1)
        image, video = extra(plan, i)[:2]
        assert image.guidance == pytest.approx(ramp(6, 2, u), rel=1e-12)
        assert video.guidance == pytest.approx(ramp(1, 3, u), rel=1e-12)


def test_more_than_fifty_released_steps_keep_the_last_gamma():
    plan = released_plan("modelscope", 80, IMAGE, interval=(0, 79), gamma_image=(6, 2))
    assert plan.active_steps == 80
    assert {extra(plan, i)[0].guidance for i in range(49, 80)} == {2.0}


def test_ordinary_steps_of_the_released_solvers():
    ddim = [move for move in released_plan("modelscope", 10, IMAGE).moves if move.kind == "ordinary"]
    assert timesteps(ddim)[:2] == [(999, 999, 899), (888, 888, 788)]
    assert ddim[-1].sigma_to == IMAGE.sigma_min
    plan = released_plan("videocrafter", 10, IMAGE, cfg_scale=9.0)
    dpm = [move for move in plan.moves if move.kind == "ordinary"]
    assert plan.solver == "dpmpp_2m_sde"
    assert timesteps(dpm)[:2] == [(999, 999, 899), (899, 899, 799)]
    assert dpm[-1].sigma_to == 0.0
    assert {move.guidance for move in dpm} == {9.0}
    assert all(after.sigma_from == before.sigma_to for before, after in zip(dpm, dpm[1:]))


def test_released_solver_and_image_size_can_be_chosen():
    assert released_plan("videocrafter", 6, IMAGE, solver="euler").solver == "euler"
    assert released_plan("modelscope", 6, IMAGE).solver == "euler"
    assert released_plan("modelscope", 6, IMAGE, image_size=(64, 64)).image_size == (64, 64)


@pytest.mark.parametrize("loop", LOOPS)
def test_released_plans_go_through_json(loop):
    plan = released_plan(loop, 8, IMAGE, image_size=(64, 64), gamma_image=(6, 2))
    assert Plan.from_dict(json.loads(plan.to_json())) == plan


def test_the_solver_is_in_the_plan_and_changes_no_move():
    euler, other = (make_plan(Options(), LEVELS, solver=solver) for solver in ("euler", "dpmpp_2m"))
    assert (euler.solver, other.solver) == ("euler", "dpmpp_2m") and euler.moves == other.moves
    with pytest.raises(ValueError, match=r"heun.*euler, dpmpp_2m, dpmpp_2m_sde"):
        make_plan(Options(), LEVELS, solver="heun")


def test_unknown_loops_and_solvers_are_refused():
    with pytest.raises(ValueError, match=r"zeroscope.*animatediff, modelscope, videocrafter"):
        released_plan("zeroscope", 8, IMAGE)
    with pytest.raises(ValueError, match="heun"):
        released_plan("modelscope", 8, IMAGE, solver="heun")


def test_the_image_models_size_is_in_every_plan():
    options = Options(image_size=(384, 512), image_resize="area")
    plan = make_plan(options, LEVELS)
    assert (plan.image_size, plan.image_resize) == ((64, 48), "area")
    assert plan.moves == make_plan(Options(), LEVELS).moves and make_plan(Options(), LEVELS).image_size is None
    assert make_plan(options, LEVELS, vae_scale=4).image_size == (128, 96)
    released = released_plan("modelscope", 6, IMAGE, image_size=(64, 64), image_resize="bilinear")
    assert (released.image_size, released.image_resize) == ((64, 64), "bilinear")


# --- what strangers send

@pytest.mark.parametrize("sigmas", [[10**400, 1], ["x", 1], [None, 0], 5, [float("nan")] * 10**5, list(range(10**5))])
def test_levels_that_are_none_are_refused_shortly(sigmas):
    with pytest.raises(ValueError, match="descend to 0 or above") as error:
        make_plan(Options(), sigmas)
    assert len(str(error.value)) < 400


def test_no_pixels_a_latent_pixel():
    with pytest.raises(ValueError, match="vae_scale = 0"):
        make_plan(Options(image_size=(64, 64)), [1, 0], vae_scale=0)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_released_loop_has_as_many_steps_as_its_table(steps):
    with pytest.raises(ValueError, match=f"steps = {steps}"):
        released_plan("modelscope", steps, VIDEO)

"""The noise tables against torch, and the ways between abar, sigma and timestep against k-diffusion's formula."""
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivmixed import Schedule, abar_to_sigma, match_timestep, sigma_to_abar

IMAGE = Schedule.scaled_linear()
VIDEO = Schedule.linear()
BETAS = {
    "image": torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2,
    "video": torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64),
}
SCHEDULES = {"image": IMAGE, "video": VIDEO}

either = st.sampled_from([IMAGE, VIDEO])
timestep = st.floats(0, 999)


def abar_of(betas):
    return (1 - betas).cumprod(0)


# --- the tables

@pytest.mark.parametrize("model", SCHEDULES)
def test_tables_are_those_of_torch(model):
    abar = abar_of(BETAS[model])
    expected = ((1 - abar) / abar).sqrt()
    assert len(SCHEDULES[model]) == 1000
    torch.testing.assert_close(torch.tensor(SCHEDULES[model].sigmas, dtype=torch.float64), expected, rtol=1e-10, atol=0)


def test_ends_of_the_tables():
    assert IMAGE.sigma_max == pytest.approx(14.6146, abs=1e-4)
    assert VIDEO.sigma_max == pytest.approx(25.146, abs=1e-3)
    assert IMAGE.sigma_min == pytest.approx(0.0291672, abs=1e-7)
    assert VIDEO.sigma_min == IMAGE.sigma_min == IMAGE.sigmas[0]
    assert IMAGE.sigma_max == IMAGE.sigmas[-1]


@pytest.mark.parametrize("model", SCHEDULES)
def test_a_table_is_the_same_from_betas_abar_and_sigmas(model):
    schedule = SCHEDULES[model]
    made = [
        Schedule.from_betas(BETAS[model]),
        Schedule(abar_of(BETAS[model])),
        Schedule(abar_of(BETAS[model]).tolist()),
        Schedule.from_sigmas(schedule.sigmas),
        Schedule.from_sigmas(torch.tensor(schedule.sigmas, dtype=torch.float64)),
        Schedule.from_sigmas(sigma for sigma in schedule.sigmas),
    ]
    for other in made:
        assert other.sigmas == pytest.approx(schedule.sigmas, rel=1e-10)


def test_tables_of_other_lengths_have_the_same_first_and_last_beta():
    for make in Schedule.linear, Schedule.scaled_linear:
        short = make(0.1, 0.2, steps=3)
        assert len(short) == 3
        assert sigma_to_abar(short.sigma_min) == pytest.approx(0.9)
        assert sigma_to_abar(short.sigmas[2]) / sigma_to_abar(short.sigmas[1]) == pytest.approx(0.8)
    assert sigma_to_abar(Schedule.linear(0.1, 0.2, 3).sigmas[1]) == pytest.approx(0.9 * 0.85)
    middle = ((0.1**0.5 + 0.2**0.5) / 2) ** 2
    assert sigma_to_abar(Schedule.scaled_linear(0.1, 0.2, 3).sigmas[1]) == pytest.approx(0.9 * (1 - middle))


@pytest.mark.parametrize("abar", [
    [], [0.5], [0.5, 0.5], [0.5, 0.6], [0.9, 0.5, 0.6], [1.0, 0.5], [0.9, 0.0, 0.0], [0.9, -0.1], [1.1, 0.5],
    [0.9, math.nan], [math.nan, 0.5], [math.inf, 0.5],
])
def test_bad_tables_of_abar_are_refused(abar):
    with pytest.raises(ValueError):
        Schedule(abar)
    with pytest.raises(ValueError):
        Schedule(torch.tensor(abar))


@pytest.mark.parametrize("sigmas", [
    [], [1.0], [1.0, 1.0], [2.0, 1.0], [0.0, 1.0], [-1.0, 1.0], [1.0, math.inf], [1.0, math.nan], [math.nan, 1.0],
])
def test_bad_tables_of_sigmas_are_refused(sigmas):
    with pytest.raises(ValueError, match="noise schedule needs"):
        Schedule.from_sigmas(sigmas)


@pytest.mark.parametrize("betas", [[], [0.1], [0.1, 0.0], [0.1, 1.0, 1.0], [0.1, 2.0], [0.1, -0.1]])
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError):
        Schedule.from_betas(betas)


# --- abar and sigma

@given(st.floats(1e-6, 1 - 1e-6))
def test_abar_to_sigma_and_back(abar):
    assert sigma_to_abar(abar_to_sigma(abar)) == pytest.approx(abar, rel=1e-9)


@given(st.floats(1e-3, 1e3))
def test_sigma_to_abar_and_back(sigma):
    assert abar_to_sigma(sigma_to_abar(sigma)) == pytest.approx(sigma, rel=1e-6)


def test_abar_and_sigma_of_a_few_levels():
    assert abar_to_sigma(1.0) == 0.0
    assert abar_to_sigma(0.5) == 1.0
    assert abar_to_sigma(0.2) == pytest.approx(2.0)
    assert sigma_to_abar(0.0) == 1.0
    assert sigma_to_abar(3.0) == pytest.approx(0.1)


@pytest.mark.parametrize("abar", [0.0, -0.1, 1.0000001, math.nan, math.inf])
def test_abar_outside_its_range_is_refused(abar):
    with pytest.raises(ValueError, match=str(abar)):
        abar_to_sigma(abar)


@pytest.mark.parametrize("sigma", [-1e-9, -1.0, math.nan])
def test_a_negative_sigma_is_refused(sigma):
    with pytest.raises(ValueError, match=str(sigma)):
        sigma_to_abar(sigma)


# --- sigma and timestep

@given(either, timestep)
def test_timestep_to_sigma_and_back(schedule, t):
    assert schedule.sigma_to_timestep(schedule.timestep_to_sigma(t)) == pytest.approx(t, abs=1e-8)


@given(either, st.floats(0, 1))
def test_sigma_to_timestep_and_back(schedule, part):
    sigma = schedule.sigma_min * (schedule.sigma_max / schedule.sigma_min) ** part
    assert schedule.timestep_to_sigma(schedule.sigma_to_timestep(sigma)) == pytest.approx(sigma, rel=1e-9)


@given(either, timestep)
def test_timestep_to_abar_and_back(schedule, t):
    assert schedule.abar_to_timestep(schedule.timestep_to_abar(t)) == pytest.approx(t, abs=1e-6)


@given(either, st.integers(0, 999))
def test_a_whole_timestep_is_an_entry_of_the_table(schedule, t):
    assert schedule.timestep_to_sigma(t) == schedule.timestep_to_sigma(float(t)) == schedule.sigmas[t]
    assert schedule.sigma_to_timestep(schedule.sigmas[t]) == t


@given(either, timestep, timestep)
def test_a_later_timestep_is_noisier(schedule, first, second):
    low, high = sorted((first, second))
    assert schedule.timestep_to_sigma(low) <= schedule.timestep_to_sigma(high) * (1 + 1e-12)
    assert schedule.timestep_to_abar(low) >= schedule.timestep_to_abar(high) * (1 - 1e-12)


def k_diffusion_timestep(sigmas, sigma):
    """DiscreteSchedule.sigma_to_t of k-diffusion's external.py, in float64."""
    log_sigmas = sigmas.log()
    log_sigma = sigma.log()
    distances = log_sigma - log_sigmas[:, None]
    low_index = distances.ge(0).cumsum(dim=0).argmax(dim=0).clamp(max=log_sigmas.shape[0] - 2)
    low, high = log_sigmas[low_index], log_sigmas[low_index + 1]
    weight = ((low - log_sigma) / (low - high)).clamp(0, 1)
    return (1 - weight) * low_index + weight * (low_index + 1)


def k_diffusion_sigma(sigmas, t):
    """DiscreteSchedule.t_to_sigma of k-diffusion's external.py, in float64."""
    log_sigmas = sigmas.log()
    low_index, high_index, weight = t.floor().long(), t.ceil().long(), t.frac()
    return ((1 - weight) * log_sigmas[low_index] + weight * log_sigmas[high_index]).exp()


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_interpolation_is_that_of_k_diffusion(schedule):
    table = torch.tensor(schedule.sigmas, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    ts = torch.rand(300, dtype=torch.float64, generator=generator) * 999
    ours = torch.tensor([schedule.timestep_to_sigma(t) for t in ts.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ours, k_diffusion_sigma(table, ts), rtol=1e-12, atol=0)

    # beyond both ends too, where it clamps
    sigmas = torch.logspace(-3, 3, 301, dtype=torch.float64)
    ours = torch.tensor([schedule.sigma_to_timestep(sigma) for sigma in sigmas.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ours, k_diffusion_timestep(table, sigmas), rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_beyond_its_ends_a_table_clamps(schedule):
    assert schedule.timestep_to_sigma(-5) == schedule.timestep_to_sigma(-1e-9) == schedule.sigma_min
    assert schedule.timestep_to_sigma(999.5) == schedule.timestep_to_sigma(5000) == schedule.sigma_max
    assert schedule.sigma_to_timestep(0.0) == schedule.sigma_to_timestep(schedule.sigma_min / 2) == 0.0
    assert schedule.sigma_to_timestep(schedule.sigma_max * 2) == schedule.sigma_to_timestep(math.inf) == 999.0
    assert schedule.abar_to_timestep(1.0) == 0.0
    assert schedule.abar_to_timestep(1e-9) == 999.0
    assert schedule.timestep_to_abar(1e9) == sigma_to_abar(schedule.sigma_max)


# --- one noise level in two tables

@pytest.mark.parametrize("video, image", [(900, 994), (800, 901), (600, 705), (500, 600), (400, 490), (200, 250)])
def test_timesteps_of_equal_noise(video, image):
    matched = match_timestep(video, VIDEO, IMAGE)
    assert round(matched) == image
    assert IMAGE.timestep_to_sigma(matched) == pytest.approx(VIDEO.sigmas[video], rel=1e-12)


@given(timestep)
def test_matched_timesteps_have_one_sigma_or_the_largest(t):
    sigma = VIDEO.timestep_to_sigma(t)
    matched = match_timestep(t, VIDEO, IMAGE)
    assert IMAGE.timestep_to_sigma(matched) == pytest.approx(min(sigma, IMAGE.sigma_max), rel=1e-9)


@given(timestep)
def test_matching_back_returns(t):
    assert match_timestep(match_timestep(t, IMAGE, VIDEO), VIDEO, IMAGE) == pytest.approx(t, abs=1e-6)


def test_above_the_targets_largest_sigma_the_match_is_its_last_timestep():
    assert match_timestep(999, VIDEO, IMAGE) == 999.0
    assert match_timestep(910, VIDEO, IMAGE) == 999.0


@given(timestep)
def test_a_table_matches_itself(t):
    assert match_timestep(t, VIDEO, VIDEO) == pytest.approx(t, abs=1e-8)


# --- other tables

def zero_terminal_snr(table):
    """The table shifted and scaled so that the last abar is 0 (Lin et al., arXiv 2305.08891, algorithm 1)."""
    root = torch.tensor([sigma_to_abar(sigma) for sigma in table.sigmas], dtype=torch.float64).sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def test_a_table_may_end_in_nothing_but_noise():
    abar = zero_terminal_snr(IMAGE)
    assert abar[-1] == 0
    table = Schedule(abar)
    assert table.sigma_max == pytest.approx(2**12, rel=1e-6) and table.sigma_min == pytest.approx(IMAGE.sigma_min)
    expected = ((1 - abar[:-1]) / abar[:-1]).sqrt()
    assert table.sigmas[:-1] == pytest.approx(expected.tolist())
    assert table.sigma_to_timestep(table.sigma_max) == 999 and Schedule(abar.tolist()).sigmas == table.sigmas
    with pytest.raises(ValueError, match="0"):
        Schedule([0.9, 0.0, 0.0])


def test_a_table_that_ends_in_noise_is_met_by_one_that_does_not():
    """What is noisier than the other model's noisiest level is that level, from timestep 880 on."""
    source = Schedule(zero_terminal_snr(IMAGE))
    assert [match_timestep(t, source, IMAGE) for t in (999, 900, 880)] == [999, 999, 999]
    assert match_timestep(999, IMAGE, source) == pytest.approx(879.8, abs=0.1)
    for t in 879, 500, 20:
        assert 999 > match_timestep(t, source, IMAGE) > t
        assert match_timestep(match_timestep(t, source, IMAGE), IMAGE, source) == pytest.approx(t)


def test_the_table_of_animatediffs_sdxl_modules():
    """Scaled-linear betas to 0.020 (sd-webui-animatediff's ``_set_ddim_alpha``); SDXL itself has Stable Diffusion's."""
    betas = torch.linspace(0.00085**0.5, 0.020**0.5, 1000, dtype=torch.float64) ** 2
    table = Schedule.scaled_linear(end=0.020)
    assert table.sigmas == pytest.approx(Schedule(abar_of(betas)).sigmas)
    assert table.sigma_max > 2 * IMAGE.sigma_max
    assert match_timestep(500, table, IMAGE) > 500


# --- an input scale

def test_videocrafter2s_levels_are_those_of_its_scaled_clips():
    """Closed values: sqrt(1 - abar) / (s sqrt(abar)), s from 1 to 0.7 over 400 entries."""
    table, abar = Schedule.videocrafter2(), abar_of(BETAS["image"])
    for t, plain, true in ((201, 0.574, 0.676), (401, 1.168, 1.669), (801, 5.134, 7.335), (999, 14.61, 20.88)):
        s = 1 - 0.3 * min(t / 399, 1)
        assert table.sigmas[t] == pytest.approx(math.sqrt(1 - abar[t]) / (s * math.sqrt(abar[t])), rel=1e-9)
        assert table.sigmas[t] == pytest.approx(true, rel=1e-3)
        assert table.unscaled.sigmas[t] == pytest.approx(plain, rel=1e-3) == IMAGE.sigmas[t]
        assert table.input_scale(table.sigmas[t]) == pytest.approx(s)
        assert table.input_norm(table.sigmas[t]) == pytest.approx(1 / (s * math.sqrt(abar[t])), rel=1e-9)
        assert table.timestep_to_abar(t) == pytest.approx(float(abar[t]))
        assert table.abar_to_timestep(float(abar[t])) == pytest.approx(t)
    asked = [match_timestep(t, table, IMAGE) for t in (201, 401, 801)]
    assert [round(t) for t in asked] == [242, 509, 875]
    assert table.sigma_max > IMAGE.sigma_max and match_timestep(999, table, IMAGE) == 999


def test_without_a_scale_the_input_has_variance_1():
    for table in (IMAGE, VIDEO, Schedule(abar_of(BETAS["image"]), [1] * 1000)):
        assert table.unscaled.sigmas == table.sigmas
        for sigma in (0.0, 0.01, 1.0, 20.0):
            assert table.input_scale(sigma) == 1 and table.input_norm(sigma) == math.sqrt(1 + sigma * sigma)


@given(st.lists(st.floats(0.3, 1), min_size=3, max_size=3), st.floats(0, 2))
def test_a_scale_is_found_again_at_every_level(scales, t):
    abar = [0.9, 0.5, 0.01]
    scales.sort(reverse=True)
    table = Schedule(abar, scales)
    sigma = table.timestep_to_sigma(t)
    s = table.input_scale(sigma)
    assert s * sigma == pytest.approx(table.unscaled.timestep_to_sigma(t)) and scales[2] - 1e-9 <= s <= scales[0] + 1e-9
    assert table.timestep_to_abar(t) == pytest.approx(1 / (1 + (s * sigma) ** 2))
    assert table.input_norm(0) == pytest.approx(1 / scales[0])


@pytest.mark.parametrize("scale", [[1.0], [1, 1, 0], [1, 1, -1], [1, math.nan, 1], [0.1, 0.5, 3000]])
def test_a_scale_that_fits_no_table_is_refused(scale):
    with pytest.raises(ValueError):
        Schedule([0.9, 0.5, 0.01], scale)

"""Context windows against those of AnimateDiff's WebUI extension (tests/vectors/motion), and their fusion."""
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ivmixed.controls import FUSES
from ivmixed.motion import LOOPS, evaluate_in_windows, uniform_windows
from ivmixed.motion.windows import window_weights

RECORDED = json.loads((Path(__file__).parent / "vectors" / "motion" / "windows.json").read_text())


def test_windows_are_those_of_the_extension():
    completed = 0
    for step, frames, context, overlap, stride, loop, short in RECORDED:
        length = max(frames, context)
        theirs = [[(first + spread * i) % length for i in range(context)] for first, spread in short]
        ours = uniform_windows(step, length, context, overlap, stride, loop)
        if set(range(length)) != {frame for window in theirs for frame in window}:
            completed += 1
            assert ours.pop() == list(range(context))
        assert ours == theirs, (step, frames, context, overlap, stride, loop)
    assert len(RECORDED) == 420 and completed == 1


@given(step=st.integers(0, 1000), frames=st.integers(1, 100), context=st.integers(1, 33), stride=st.integers(1, 5),
       loop=st.sampled_from(LOOPS), data=st.data())
def test_every_frame_is_in_a_window(step, frames, context, stride, loop, data):
    overlap = data.draw(st.integers(0, min(context - 1, 12)))
    windows = uniform_windows(step, frames, context, overlap, stride, loop)
    assert {frame for window in windows for frame in window} == set(range(frames))
    assert {len(window) for window in windows} == {min(frames, context)}


@given(step=st.integers(0, 1000), frames=st.integers(9, 100), overlap=st.integers(0, 7))
def test_no_window_of_neighbours_reaches_over_the_end_without_a_loop(step, frames, overlap):
    for window in uniform_windows(step, frames, 8, overlap, closed_loop="N"):
        assert window == list(range(window[0], window[0] + 8))


def test_examples():
    assert uniform_windows(0, 16) == [list(range(16))]
    assert uniform_windows(0, 10) == [list(range(10))]
    assert uniform_windows(0, 28) == [list(range(16)), list(range(12, 28))]
    assert [w[0] for w in uniform_windows(0, 28, closed_loop="A")] == [0, 12, 24]
    assert [w[0] for w in uniform_windows(1, 32)] == [16, 28, 8]
    assert [w[0] for w in uniform_windows(1, 32, closed_loop="N")] == [16, 16, 0, 8]
    assert uniform_windows(0, 32, 8, 0, stride=2)[4] == list(range(0, 16, 2))


@pytest.mark.parametrize("wrong, words", [
    ({"overlap": 16}, "overlap = 16 frames is not in 0 to 15"),
    ({"overlap": -1}, "overlap = -1 frames"),
    ({"closed_loop": "B"}, "closed loop = 'B' is not one of N, R-P, R.P, A"),
    ({"stride": 0}, "stride = 0"),
    ({"context": 0}, "context = 0"),
    ({"step": -1}, "step = -1"),
])
def test_values_out_of_range_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        uniform_windows(**{"step": 0, "frames": 32} | wrong)


# --- fusion

WINDOWS = [[0, 1, 2], [2, 3, 4], [4, 0, 2]]


def test_a_frame_in_several_windows_is_their_mean():
    x = torch.arange(10.0)[:, None]
    seen = []

    def evaluate(rows, length):
        assert length == 3
        seen.append(rows.tolist())
        return x[rows] + 100 * len(seen)

    made = evaluate_in_windows(evaluate, x, WINDOWS, 5)
    assert seen == [[0, 1, 2, 5, 6, 7], [2, 3, 4, 7, 8, 9], [4, 0, 2, 9, 5, 7]]
    added = torch.tensor([200.0, 100, 200, 200, 250] * 2)[:, None]
    assert torch.equal(made, x + added)


def test_the_last_window_counts_where_it_is_asked_for():
    x = torch.zeros(5, 1)
    numbers = iter((1.0, 2.0, 3.0))
    made = evaluate_in_windows(lambda rows, _: x[rows] + next(numbers), x, WINDOWS, 5, fuse="last")
    assert made.flatten().tolist() == [3, 1, 3, 2, 3]


@pytest.mark.parametrize("fuse, weights", [
    ("mean", [1, 1, 1, 1, 1]), ("pyramid", [1, 2, 3, 2, 1]), ("linear", [1, 2, 2, 2, 1])])
def test_weights_of_windows(fuse, weights):
    assert window_weights(fuse, 5) == weights  # a quarter of 5 frames is 1
    assert window_weights("linear", 6, 0) == [1] * 6
    assert window_weights("linear", 8, 3) == [1, 2, 3, 4, 4, 3, 2, 1]


@given(step=st.integers(0, 50), frames=st.integers(2, 60), context=st.integers(2, 16), stride=st.integers(1, 3),
       loop=st.sampled_from(LOOPS), fuse=st.sampled_from(("mean", "pyramid", "linear")), data=st.data())
def test_weights_sum_to_one(step, frames, context, stride, loop, fuse, data):
    """What all windows agree on comes out of their fusion as it is."""
    overlap = data.draw(st.integers(0, context - 1))
    windows = uniform_windows(step, frames, context, overlap, stride, loop)
    x = torch.linspace(-3, 5, 2 * frames, dtype=torch.float64)[:, None]
    made = evaluate_in_windows(lambda rows, _: x[rows], x, windows, frames, fuse, overlap)
    torch.testing.assert_close(made, x, rtol=0, atol=1e-12)


def test_pyramids_are_those_of_diffusers():
    from diffusers.models.attention import FreeNoiseTransformerBlock

    for length in range(1, 33):
        theirs = FreeNoiseTransformerBlock._get_frame_weights(None, length, "pyramid")
        assert window_weights("pyramid", length) == theirs


def test_a_frame_in_several_windows_is_their_weighted_mean():
    x = torch.zeros(6, 1)
    numbers = iter((1.0, 2.0))
    made = evaluate_in_windows(lambda rows, _: x[rows] + next(numbers), x, [[0, 1, 2, 3], [2, 3, 4, 5]], 6, "pyramid")
    torch.testing.assert_close(made.flatten(), torch.tensor([1, 1, (2 + 2) / 3, (1 + 4) / 3, 2, 2]))


def test_a_frame_twice_in_one_window():
    x = torch.zeros(3, 1)

    def evaluate(rows, length):
        return torch.arange(4.0)[:, None]

    assert evaluate_in_windows(evaluate, x, [[0, 1, 2, 0]], 3).flatten().tolist() == [1.5, 1, 2]
    assert evaluate_in_windows(evaluate, x, [[0, 1, 2, 0]], 3, "last").flatten().tolist() == [3, 1, 2]


def test_one_window_is_the_evaluation_itself():
    x = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    for fuse in FUSES:
        assert torch.equal(evaluate_in_windows(lambda rows, _: x[rows].sin(), x, [list(range(4))], 4, fuse), x.sin())


def test_the_mean_of_halves_is_taken_in_full_precision():
    x = torch.full((2, 1), 3001.0, dtype=torch.float16)
    parts = iter((3001, 3003, 3001, 3003))
    made = evaluate_in_windows(
        lambda rows, _: torch.full((len(rows), 1), next(parts), dtype=torch.float16), x, [[0, 1]] * 4, 2)
    assert made.dtype == torch.float16
    # in half precision the sum of four of them would be a multiple of 8, and its quarter of 2
    expected = torch.tensor([3001, 3003, 3001, 3003], dtype=torch.float16).float().mean().half()
    assert torch.equal(made.flatten(), expected.expand(2))


@pytest.mark.parametrize("rows, windows, fuse, words", [
    (9, WINDOWS, "mean", "9 rows are no whole number of clips of 5 frames"),
    (0, WINDOWS, "mean", "0 rows"),
    (10, [[0, 1, 2], [4, 3]][:1], "mean", "frame 3 of 5 is in no window"),
    (10, WINDOWS, "median", "median"),
])
def test_what_does_not_fit_is_refused(rows, windows, fuse, words):
    with pytest.raises(ValueError, match=words):
        evaluate_in_windows(lambda rows, _: rows, torch.zeros(rows, 1), windows, 5, fuse)

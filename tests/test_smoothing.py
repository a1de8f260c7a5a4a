"""Averaging over neighbouring frames along the motion."""
from __future__ import annotations

import itertools
import math

import pytest
import torch

from ivmixed.smoothing import PATCH, REACH, STAY, TOLERANCE, smoothed


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brought(detail, there, here):
    """Written out, place by place: channels, height, width."""
    _, height, width = here.shape
    places = list(itertools.product(range(height), range(width)))

    def apart(y, x, dy, dx):
        """Of patches about a place and about one that is (dy, dx) away, over what both have."""
        found = [(there[:, v + dy, u + dx] - here[:, v, u]).square().mean()
                 for v, u in places if max(abs(v - y), abs(u - x)) <= PATCH // 2
                 and 0 <= v + dy < height and 0 <= u + dx < width]
        return float(sum(found) / len(found))

    near = {(y, x): [(dy, dx) for dy, dx in itertools.product(range(-REACH, REACH + 1), repeat=2)
                     if 0 <= y + dy < height and 0 <= x + dx < width] for y, x in places}
    found = {place: [apart(*place, *step) for step in steps] for place, steps in near.items()}
    usual = sum(min(values) for values in found.values()) / len(places)
    result = torch.zeros_like(detail)
    for (y, x), values in found.items():
        weights = [math.exp(-value / (TOLERANCE * usual) - STAY * (dy**2 + dx**2))
                   for value, (dy, dx) in zip(values, near[y, x])]
        for weight, (dy, dx) in zip(weights, near[y, x]):
            result[:, y, x] += weight / sum(weights) * detail[:, y + dy, x + dx]
    return result


def test_it_is_the_formula():
    detail, guide = normal(3, 2, 4, 6), normal(3, 4, 4, 6, seed=1).cumsum(0)
    mean = torch.empty_like(detail)
    for k in range(3):
        others = [brought(detail[o], guide[o], guide[k]) if 0 <= o < 3 else detail[k] for o in (k - 1, k + 1)]
        mean[k] = (detail[k] + others[0] + others[1]) / 3
    for share in (0.0, 0.6, 1.0):
        expected = (1 - share) * detail + share * mean
        torch.testing.assert_close(smoothed(detail, guide, share), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("way", [(0, 0), (0, 1), (2, -3), (-3, 3)])
def test_what_moves_with_the_clip_stays_as_it_is(way):
    """And what does not, noise of each frame's own, is averaged out."""
    frames, inner = 5, slice(8, 24)
    picture, texture = normal(1, 4, 64, 64), normal(1, 4, 64, 64, seed=1)

    def moving(still):
        return torch.cat([still.roll((way[0] * k, way[1] * k), (2, 3)) for k in range(frames)])[..., :32, :32]

    noise = normal(frames, 4, 32, 32, seed=2)
    guide = moving(picture)
    kept = smoothed(moving(texture), guide, 1.0)
    torch.testing.assert_close(kept[..., inner, inner], moving(texture)[..., inner, inner], rtol=0, atol=0.05)
    left = smoothed(noise, guide, 1.0)[1:-1, ..., inner, inner]
    assert 0.5 < left.std() * math.sqrt(3) < 1.1


def test_where_nothing_can_be_told_apart_nothing_moves():
    detail, flat = normal(3, 4, 16, 16), torch.zeros(3, 4, 16, 16, dtype=torch.float64)
    result = smoothed(detail, flat, 1.0)
    assert result.isfinite().all()
    torch.testing.assert_close(smoothed(torch.ones_like(detail), flat, 1.0), torch.ones_like(detail))
    in_place = torch.zeros_like(detail)
    in_place[1, :, 8, 8] = 1
    spot = smoothed(in_place, flat, 1.0)[0, 0]
    assert spot.argmax() == 8 * 16 + 8 and spot[8, 8] > 1.3 * spot[8, 9]


def test_clips_side_by_side_and_channels_do_not_mix():
    detail, guide = normal(4, 3, 2, 12, 10), normal(4, 3, 4, 12, 10, seed=1)
    together = smoothed(detail, guide, 0.7)
    alone = torch.stack([smoothed(detail[:, k], guide[:, k], 0.7) for k in range(3)], 1)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together[:, :, :1], smoothed(detail[:, :, :1], guide, 0.7))


def test_a_single_frame_and_a_clip_smaller_than_the_reach():
    assert torch.equal(smoothed(normal(1, 4, 8, 8), normal(1, 4, 8, 8, seed=1), 1.0), normal(1, 4, 8, 8))
    assert smoothed(normal(2, 4, 1, 2), normal(2, 4, 1, 2, seed=1), 1.0).isfinite().all()

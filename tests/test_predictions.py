"""Predictions are given again as the network gave them, however the parts of the batch were split into calls."""
import pytest
import torch

from ivmixed.predictions import Predictions


@pytest.mark.parametrize("kept", [[4], [1, 3], [1, 1, 1, 1]])
@pytest.mark.parametrize("asked", [[4], [2, 2], [3, 1]])
def test_rows_come_again_in_their_order_by_part(kept, asked):
    rows = {part: torch.randn(4, 2) for part in ("cond", "uncond")}
    predictions = Predictions()
    for part in rows:
        for given in rows[part].split(kept):
            predictions.keep(part, given)
    for _ in range(2):
        take = predictions.again()
        for part in reversed(rows):
            assert torch.equal(torch.cat([take(part, count) for count in asked]), rows[part])


def test_neither_side_can_write_into_what_is_kept():
    given, predictions = torch.ones(2), Predictions()
    predictions.keep(0, given)
    given.zero_()
    predictions.again()(0, 2).zero_()
    assert torch.equal(predictions.again()(0, 2), torch.ones(2))


def test_what_was_not_kept_is_an_error():
    predictions = Predictions()
    predictions.keep(0, torch.ones(2))
    take = predictions.again()
    for part, count in (1, 2), (0, 3):
        with pytest.raises(LookupError):
            take(part, count)

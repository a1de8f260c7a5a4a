"""The error that the host shows to a user as it is."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException

from ..clips.encode import MediaError
from ..motion import MotionError, TravelError
from ..options import OptionError


class RefusedError(HTTPException):
    """Wrong input, refused: status 422 with the message, from the API and in the page."""

    def __init__(self, message: str):
        super().__init__(status_code=422, detail=message)

    def __str__(self) -> str:
        return self.detail


@contextmanager
def refusing() -> Iterator[None]:
    """Within the block wrong input is refused: whatever of ours says so becomes RefusedError."""
    try:
        yield
    except (OptionError, MotionError, TravelError, MediaError) as error:
        raise RefusedError(str(error)) from None

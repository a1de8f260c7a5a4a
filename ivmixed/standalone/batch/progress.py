"""How far a batch is: clips, evaluations a second of all workers, and the time that is left, in one line."""
from __future__ import annotations

import sys
import time
from typing import TextIO

_QUIET = 30.0  # seconds between lines where they are written one below the other


class Progress:
    """A line that is drawn over itself in a terminal, and written every half minute elsewhere, as in a job's log.

    The rate is that of finished clips alone, with the time that loading the models took in it; until one is finished
    nothing is said of the time that is left.
    """

    def __init__(self, clips: int, evaluations: int, workers: int, *, quiet: bool = False,
                 stream: TextIO | None = None, unit: str = "clips"):
        self.clips, self.evaluations, self.workers = clips, evaluations, workers
        self.done = self.made = self.failed = 0  # clips, evaluations, clips
        self.unit = unit
        self._stream, self._quiet = stream or sys.stderr, quiet
        self._begun = self._said = time.monotonic()
        self._width = 0

    def update(self, evaluations: int, *, made: bool, failed: bool = False) -> None:
        """A clip came to its end. ``made``: it took time; what was there before does not count for the rate."""
        self.done += 1
        self.failed += failed
        if made:
            self.made += evaluations
        else:
            self.evaluations -= evaluations
        self._draw()

    def line(self, seconds: float) -> str:
        """What is said after so many seconds."""
        said = f"{self.done} of {self.clips} {self.unit}" + (f", {self.failed} failed" if self.failed else "")
        said += f", {self.workers} workers" if self.workers > 1 else ""
        if self.made and seconds > 0:
            rate = self.made / seconds
            said += f", {rate:.3g} evaluations/s, {duration((self.evaluations - self.made) / rate)} left"
        return said

    def close(self) -> None:
        """The line stays, and the next one begins."""
        if self._width:
            self._write("\n")
            self._width = 0

    def _draw(self) -> None:
        now = time.monotonic()
        if self._quiet:
            return
        line = self.line(now - self._begun)
        if self._stream.isatty():
            self._write("\r" + line.ljust(self._width))
            self._width = len(line)
        elif now - self._said >= _QUIET or self.done == self.clips:
            self._said = now
            self._write(line + "\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a closed pipe is no reason to lose a batch
            self._quiet = True


def duration(seconds: float) -> str:
    """Such as "40 s", "12 min" or "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

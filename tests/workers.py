"""Workers for tests of the engine on Ray; each process of theirs imports this file, so it imports little."""
import os
import signal
import time


class Doubler:
    """Doubles numbers; at 0 and 1 it waits for the other, at 7 it raises, at 13 its process is killed."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, number):
        if number < 2:
            (self.folder / str(number)).touch()
            end = time.monotonic() + 100
            while not (self.folder / str(1 - number)).exists() and time.monotonic() < end:
                time.sleep(0.05)
        if number == 7:
            raise ValueError("seven")
        if number == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * number, os.environ["CUDA_VISIBLE_DEVICES"]


def stillborn():
    os.kill(os.getpid(), signal.SIGKILL)


class Waiter:
    """At 0 it is done; at any other number it says so in the folder, with its process, and is never done."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, number):
        if number:
            (self.folder / f"{number}.new").write_text(str(os.getpid()))
            (self.folder / f"{number}.new").rename(self.folder / str(number))
            time.sleep(1000)
        return number

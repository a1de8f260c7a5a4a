"""What makes the generations of the page: one after the other, in a thread of its own in the host."""
from modules import errors, shared

last_exception = None
"""Forge main's."""


class Task:
    def __init__(self, func):
        self.func = func
        self.result = None

    def work(self):
        self.result = self.func()


def run_and_wait_result(func):
    global last_exception
    task = Task(func)
    last_exception = None
    try:
        task.work()
    except Exception as error:
        errors.report(f"main thread: {error!r}")
        if shared.host == "forge_main":
            last_exception = error
    return task.result

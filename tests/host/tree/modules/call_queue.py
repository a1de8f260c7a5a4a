"""A generation asked for in the page: one after the other, and what it raises is shown there."""
import html
import sys
import threading
from functools import wraps

from modules import errors, progress, shared

queue_lock = threading.Lock()


def wrap_gradio_gpu_call(func, extra_outputs=None):
    """``func`` gives the page's outputs, of which the last is HTML."""
    @wraps(func)
    def call(id_task, *args):
        with queue_lock:
            shared.state.begin(job=id_task)
            progress.current = id_task
            try:
                result = list(func(id_task, *args))
            except Exception as error:
                error = getattr(sys.modules.get("modules_forge.main_thread"), "last_exception", None) or error
                errors.report(f"page: {error!r}")
                result = [*extra_outputs, f"<div class='error'>{html.escape(f'{type(error).__name__}: {error}')}</div>"]
            finally:
                progress.current = None
                progress.finished.append(id_task)
            shared.state.end()
        result[-1] += "<div class='performance'>Time taken</div>"
        return tuple(result)
    return call

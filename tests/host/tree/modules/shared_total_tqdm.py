"""The console's bar over all jobs, made at the first step of the first of them."""
import tqdm

from modules import shared


class TotalTQDM:
    def __init__(self):
        self._tqdm = None

    def _shown(self):
        return shared.opts.multiple_tqdm and not shared.cmd_opts.disable_console_progressbars

    def reset(self):
        total = shared.state.job_count * shared.state.sampling_steps
        self._tqdm = tqdm.tqdm(total=total, file=shared.progress_print_out)

    def update(self):
        if self._shown():
            if self._tqdm is None:
                self.reset()
            self._tqdm.update()

    def updateTotal(self, total):
        if self._shown():
            if self._tqdm is None:
                self.reset()
            self._tqdm.total = total

    def clear(self):
        if self._tqdm is not None:
            self._tqdm.close()
            self._tqdm = None

"""What the page asks while a job runs: how far it is, and a preview."""
from modules import shared


class State:
    skipped = False
    interrupted = False
    stopping_generation = False
    job = ""
    job_no = 0
    job_count = 0
    sampling_step = 0
    sampling_steps = 0
    current_latent = None
    current_image = None
    current_image_sampling_step = 0
    id_live_preview = 0

    def begin(self, job):
        self.job, self.job_no, self.job_count = job, 0, -1
        self.sampling_step = self.current_image_sampling_step = self.id_live_preview = 0
        self.current_latent = self.current_image = None
        self.skipped = self.interrupted = self.stopping_generation = False

    def end(self):
        self.job, self.job_count = "", 0

    def nextjob(self):
        self.job_no += 1
        self.sampling_step = self.current_image_sampling_step = 0

    def skip(self):
        self.skipped = True

    def interrupt(self):
        self.interrupted = True

    def set_current_image(self):
        """What every poll of the page does: a new preview where enough steps have passed since the last."""
        every = shared.opts.show_progress_every_n_steps
        due = self.sampling_step - self.current_image_sampling_step >= every != -1
        if shared.parallel_processing_allowed and shared.opts.live_previews_enable and due:
            self.do_set_current_image()

    def do_set_current_image(self):
        if self.current_latent is not None:
            self.assign_current_image(self.current_latent)
            self.current_image_sampling_step = self.sampling_step

    def assign_current_image(self, image):
        self.current_image = image
        self.id_live_preview += 1

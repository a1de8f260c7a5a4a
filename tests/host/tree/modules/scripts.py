"""Scripts of extensions, and the runner that calls their hooks. What a hook raises is only reported."""
import re

from modules import errors

AlwaysVisible = object()
scripts_txt2img = None
"""The runner of the tab txt2img."""
scripts_img2img = None
"""That of img2img."""
scripts_data = []
"""Every script that the host has loaded: its path and its module."""


class PostprocessBatchListArgs:
    def __init__(self, images):
        self.images = images


class Script:
    args_from = args_to = None
    is_img2img = False
    infotext_fields = paste_field_names = None

    def title(self):
        raise NotImplementedError

    def ui(self, is_img2img):
        pass

    def show(self, is_img2img):
        return True

    def run(self, p, *args):
        pass

    def before_process(self, p, *args):
        pass

    def process(self, p, *args):
        pass

    def process_batch(self, p, *args):
        pass

    def process_before_every_sampling(self, p, *args):
        pass

    def postprocess_batch_list(self, p, pp, *args, **kwargs):
        pass

    def postprocess(self, p, processed, *args):
        pass

    def after_component(self, component, **kwargs):
        pass

    def elem_id(self, item_id):
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", self.title().lower()))
        return f"script_{'img2img' if self.is_img2img else 'txt2img'}_{title}_{item_id}"


class ScriptRunner:
    def __init__(self, scripts=()):
        scripts = list(scripts)
        self.alwayson_scripts = [script for script in scripts if script.show(script.is_img2img) is AlwaysVisible]
        self.selectable_scripts = [script for script in scripts if script not in self.alwayson_scripts]
        self.inputs = [None]  # the first is the dropdown of selectable scripts
        self.infotext_fields = []

    def create_script_ui(self, script):
        controls = script.ui(script.is_img2img) or []
        script.args_from = len(self.inputs)
        self.inputs += controls
        script.args_to = len(self.inputs)
        self.infotext_fields += script.infotext_fields or []

    def setup_selectable(self, arguments):
        """They follow the others, each with as many arguments."""
        for script in self.selectable_scripts:
            script.args_from, script.args_to = len(self.inputs), len(self.inputs) + arguments
            self.inputs += [None] * arguments

    def run(self, p, *args):
        """The chosen script, which makes the request, or several, itself; None: none is chosen."""
        if args[0] == 0 or args[0] is None:
            return None
        script = self.selectable_scripts[args[0] - 1]
        return script.run(p, *args[script.args_from:script.args_to])

    def _run(self, hook, p, *more):
        for script in self.alwayson_scripts:
            try:
                getattr(script, hook)(p, *more, *p.script_args[script.args_from:script.args_to])
            except Exception as error:
                errors.report(f"{script.title()}/{hook}: {error!r}")

    def after_component(self, component, **kwargs):
        for script in self.alwayson_scripts:
            try:
                script.after_component(component, **kwargs)
            except Exception as error:
                errors.report(f"{script.title()}/after_component: {error!r}")

    def before_process(self, p):
        self._run("before_process", p)

    def process(self, p):
        self._run("process", p)

    def process_batch(self, p):
        self._run("process_batch", p)

    def process_before_every_sampling(self, p):
        self._run("process_before_every_sampling", p)

    def postprocess_batch_list(self, p, pp):
        self._run("postprocess_batch_list", p, pp)

    def postprocess(self, p, processed):
        self._run("postprocess", p, processed)

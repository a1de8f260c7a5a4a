"""The extension for the Stable Diffusion WebUI: all that imports the host's ``modules``.

`register` puts it into the host, `script` has the scripts' hooks, `request` is what is kept with one request. `sampler`
makes a plan of it and `run` runs that, move by move, on the strategy of the host; each host has a file in `hosts`.
`builtin` is built-in motion, `extensions` what is known of AnimateDiff, ControlNet and Lora, `image_model` the image
model's conds, checkpoint and weights, `page` the panels, the tab and the settings.
"""
import logging

NAME = "IV-mixed"
"""The sampler's and the script's name, in the dropdowns, the API and the infotext."""

MOTION = f"{NAME} motion"
"""The name of the script that makes clips without another extension."""

SAMPLERS = {NAME: "euler", f"{NAME} DPM++ 2M": "dpmpp_2m", f"{NAME} DPM++ 2M SDE": "dpmpp_2m_sde"}
"""The samplers by name, and how each takes the ordinary step."""

log = logging.getLogger("ivmixed")
"""One line here for whatever a user should know: the hosts show warnings only, so it has a handler of its own."""

if not log.handlers:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"[{NAME}] %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False

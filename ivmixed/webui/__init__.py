"""The extension for the Stable Diffusion WebUI: all that imports the host's ``modules``.

`sampler` is the sampler as every host runs it; `a1111` and `forge`, with the files beside them, are what a host does in
its own way, `host` tells which it is. `panel` is the page, `script` the hooks, `patch` how the host is changed and put
back. `motion` is built-in motion, `built_in_a1111` how it gets there, `motion_panel` its page, `clips` its files.
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

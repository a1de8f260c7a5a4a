"""The samplers of the dropdowns and the API."""
import functools

from modules import sd_samplers_kdiffusion, sd_schedulers, shared

all_samplers = [*sd_samplers_kdiffusion.samplers_data_k_diffusion]
all_samplers_map = {x.name: x for x in all_samplers}

samplers = []
samplers_for_img2img = []
samplers_map = {}
samplers_hidden = set()


def find_sampler_config(name):
    return all_samplers[0] if name is None else all_samplers_map.get(name)


def create_sampler(name, model):
    config = find_sampler_config(name)
    assert config is not None, f"bad sampler name: {name}"
    sampler = config.constructor(model)
    sampler.config = config
    return sampler


def set_samplers():
    global samplers, samplers_for_img2img, samplers_hidden
    samplers_hidden = set(shared.opts.hide_samplers)
    samplers = samplers_for_img2img = all_samplers
    samplers_map.clear()
    for sampler in all_samplers:
        for name in (sampler.name, *sampler.aliases):
            samplers_map[name.lower()] = sampler.name


def visible_sampler_names():
    return [x.name for x in samplers if x.name not in samplers_hidden]


@functools.cache
def get_sampler_and_scheduler(sampler_name, scheduler_name, *, convert_automatic=True):
    """Names as the API and infotext give them; an unknown sampler is the first of the list, and that is remembered."""
    name = sampler_name or samplers[0].name
    found = sd_schedulers.schedulers_map.get(scheduler_name, sd_schedulers.schedulers[0])
    for scheduler in sd_schedulers.schedulers:
        if name.endswith(" " + scheduler.label):
            name, found = name.removesuffix(" " + scheduler.label), scheduler
    sampler = all_samplers_map.get(name, samplers[0])
    if convert_automatic and sampler.options.get("scheduler") == found.name:
        found = sd_schedulers.schedulers[0]
    return sampler.name, found.label


set_samplers()

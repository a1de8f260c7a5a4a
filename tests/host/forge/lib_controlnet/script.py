"""The Forge family's ControlNet, ``scripts/controlnet.py`` in its ``sd_forge_controlnet``: pictures become hints, one
for each row of the batch, which the UNet is given with every call."""
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from lib_controlnet.external_code import ControlNetUnit, ResizeMode, resize_mode_from_value
from modules import scripts


class ControlNetForForgeOfficial(scripts.Script):
    def title(self):
        return "ControlNet"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return ["unit 0", "unit 1"]

    def get_enabled_units(self, units):
        units = [ControlNetUnit.from_dict(unit) if isinstance(unit, dict) else unit for unit in units]
        return [unit for unit in units if isinstance(unit, ControlNetUnit) and unit.enabled]

    def get_input_data(self, p, unit, preprocessor, h, w):
        if unit.image is None:
            raise ValueError("controlnet is enabled but no input image is given")
        return [[unit.image, None]], resize_mode_from_value(unit.resize_mode)

    def process(self, p, *args):
        self.current_params = {}
        for i, unit in enumerate(self.get_enabled_units(args)):
            self.current_params[i] = self._prepared(p, unit)

    def _prepared(self, p, unit):
        preprocessor = {"None": np.asarray, "invert": lambda image: 255 - image, "IP-Adapter": None}[unit.module]
        inputs, resize_mode = self.get_input_data(p, unit, preprocessor, p.height, p.width)
        if preprocessor is None:  # it makes an embedding of the first
            return SimpleNamespace(model=unit, control_cond={"embedding": torch.ones(1)})
        assert unit.model != "None", "You have not selected any control model!"
        conds = []
        for image, _ in inputs:
            image = _fitted(preprocessor(image), resize_mode, p.height, p.width)
            conds.append(torch.from_numpy(image.copy()).float()[None].movedim(-1, 1) / 255)
            if unit.save_detected_map:
                p.extra_result_images = [*getattr(p, "extra_result_images", ()), image]
        return SimpleNamespace(model=unit, control_cond=torch.cat(conds)[[i % len(conds) for i in range(p.batch_size)]])

    def process_before_every_sampling(self, p, *args):
        unet = p.sd_model.forge_objects.unet.clone()
        for i, _ in enumerate(self.get_enabled_units(args)):
            params = self.current_params[i]
            unet.controlnet_linked_list = _linked(unet.controlnet_linked_list, params.control_cond, params.model.weight)
        p.sd_model.forge_objects.unet = unet


def _fitted(image, mode, h, w):
    if mode == ResizeMode.INNER_FIT:
        side = min(image.shape[0] * w, image.shape[1] * h)
        high, wide = side // w, side // h
        top, left = (image.shape[0] - high) // 2, (image.shape[1] - wide) // 2
        image = image[top:top + high, left:left + wide]
    return np.asarray(Image.fromarray(image).resize((w, h)))


def _linked(before, cond, weight):
    hint = torch.nn.functional.adaptive_avg_pool2d(cond, 4)
    hint = torch.cat([hint, hint[:, :1]], 1) * weight

    def control(rows):
        mine = hint.repeat(rows // len(hint), 1, 1, 1)
        return mine if before is None else mine + before(rows)
    return control

"""The units of the Forge family's ControlNet, as Forge main has them."""
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np


class InputMode(Enum):
    SIMPLE = "simple"
    BATCH = "batch"
    MERGE = "merge"


class ResizeMode(Enum):
    RESIZE = "Just Resize"
    INNER_FIT = "Crop and Resize"
    OUTER_FIT = "Resize and Fill"


def resize_mode_from_value(value):
    return ResizeMode(value) if isinstance(value, str) else value


@dataclass
class ControlNetUnit:
    input_mode: InputMode = InputMode.SIMPLE
    use_preview_as_input: bool = False
    generated_image: Any = None
    enabled: bool = True
    module: str = "None"
    model: str = "None"
    weight: float = 1.0
    image: Any = None
    resize_mode: Any = ResizeMode.INNER_FIT
    save_detected_map: bool = True

    @staticmethod
    def from_dict(d):
        unit = ControlNetUnit(**{k: v for k, v in d.items() if k in vars(ControlNetUnit)})
        if isinstance(unit.image, list):  # there it is a picture in base64
            unit.image = np.array(unit.image, np.uint8)
        return unit

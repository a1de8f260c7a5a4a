"""The X/Y/Z plot: axes that other extensions add to, and a clip for every pair of values."""
import re
from copy import copy

from PIL import Image

from modules import errors, scripts
from modules.processing import Processed, process_images

_range = re.compile(r"\s*([\d.]+)\s*-\s*([\d.]+)(?:\s*\(\+([\d.]+)\))?\s*")


def label_and_value(p, axis, value):
    return f"{axis.label}: {value}"


class AxisOption:
    def __init__(self, label, type, apply, format_value=label_and_value, confirm=None, cost=0.0, choices=None):
        self.label, self.type, self.apply, self.format_value = label, type, apply, format_value
        self.confirm, self.cost, self.choices = confirm, cost, choices


axis_options = [
    AxisOption("Nothing", str, lambda p, x, xs: None),
    AxisOption("Steps", int, lambda p, x, xs: setattr(p, "steps", x)),
]


def axis(label):
    return next(option for option in axis_options if option.label == label)


def values_of(axis, text):
    """The values of what stands in the page, or was chosen there."""
    texts = text if isinstance(text, list) else [part.strip() for part in text.split(",")]
    if axis.type == float:  # noqa: E721  as the host asks
        found = []
        for part in texts:
            span = _range.fullmatch(part)
            if span is None:
                found.append(part)
                continue
            start, end, step = float(span[1]), float(span[2]), float(span[3] or 1)
            found += [start + step * k for k in range(round((end - start) / step) + 1)]
        texts = found
    values = [axis.type(part) for part in texts]
    if axis.confirm:
        axis.confirm(None, values)
    return values


def run(p, x_label, x_text, y_label="Nothing", y_text=""):
    """The processing object of every cell and what it made, rows of x."""
    x_axis, y_axis = axis(x_label), axis(y_label)
    xs, ys = values_of(x_axis, x_text), values_of(y_axis, y_text)
    cells = []
    for y in ys:
        for x in xs:
            cell = copy(p)
            x_axis.apply(cell, x, xs)
            y_axis.apply(cell, y, ys)
            cells.append((cell, process_images(cell)))
    return cells


class Script(scripts.Script):
    """One axis. What goes wrong in a cell is shown in the console, and its picture is empty."""

    def title(self):
        return "X/Y/Z plot"

    def run(self, p, label, text):
        x_axis = axis(label)
        xs = values_of(x_axis, text)
        pictures, infotexts, seeds = [], [], []
        for x in xs:
            cell = copy(p)
            x_axis.apply(cell, x, xs)
            try:
                result = process_images(cell)
            except Exception as error:
                errors.display(error, "generating image for xyz plot")
                result = Processed([], [""], [cell.seed])
            pictures.append(result.images[0] if result.images else Image.new("RGB", (p.width, p.height)))
            infotexts.append(result.infotexts[0])
            seeds += result.all_seeds[:1]
        width, height = pictures[0].size
        grid = Image.new("RGB", (width * len(pictures), height))
        for number, picture in enumerate(pictures):
            grid.paste(picture, (number * width, 0))
        return Processed([grid], ["the grid", *infotexts], seeds)

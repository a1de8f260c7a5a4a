"""Names of files, and pictures of other sizes."""
from pathlib import Path


def get_next_sequence_number(path, basename):
    return sum(1 for _ in Path(path).iterdir())


def resize_image(resize_mode, picture, width, height):
    """Stretched (0), or its middle (1)."""
    if resize_mode == 0:
        return picture.resize((width, height))
    scale = max(width / picture.width, height / picture.height)
    filled = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    left, top = (filled.width - width) // 2, (filled.height - height) // 2
    return filled.crop((left, top, left + width, top + height))

"""Names of files."""
from pathlib import Path


def get_next_sequence_number(path, basename):
    return sum(1 for _ in Path(path).iterdir())

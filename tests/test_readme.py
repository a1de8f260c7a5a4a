"""The README says what the code does: its option table against the declarations, its Python example run."""
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from ivmixed import OPTIONS
from ivmixed.motion.options import MOTION_OPTIONS

from . import options_table

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.parametrize("heading, options", [
    ("Options", OPTIONS), ("Built-in motion", tuple(MOTION_OPTIONS.values()))])
def test_the_table_of_options_is_the_declaration(heading, options):
    section = re.search(rf"^## {heading}\n(.*?)^## ", README, re.MULTILINE | re.DOTALL).group(1)
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| `([^`]+)` \|$", section, re.MULTILINE)
    assert [name for name, *_ in rows] == [option.name for option in options]
    for option, (_, default, allowed, text, key) in zip(options, rows, strict=True):
        assert key == option.label
        assert text == option.help
        if option.follows:
            assert default == f"none: as `{option.follows}`" and allowed == f"as `{option.follows}`"
            continue
        value = "" if default == "none" else json.loads(default.strip("`"))
        assert (tuple(value) if isinstance(value, list) else value) == option.default
        if option.spelled:
            assert allowed == option.spelled
        elif option.choices:
            assert re.findall(r'`"([^"]+)"`', allowed) == list(option.choices)
        else:
            assert f"{option.minimum:g} to {option.maximum:g}" in allowed


def test_the_page_of_all_options_is_the_declaration():
    text = options_table.FILE.read_text()
    assert options_table.written(text) == text, "run python -m tests.options_table"
    seen = options_table.kept(text)
    assert all(seen[option.name] for options in options_table.TABLES.values() for option in options)


def test_the_python_example_prints_what_it_says():
    code, printed = re.search(
        r"## Python API.*?```python\n(.*?)```.*?```\n(.*?)```", README, re.DOTALL).groups()
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue() == printed

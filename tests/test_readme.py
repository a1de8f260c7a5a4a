"""The README says what the code does: its option table against the declarations, its Python example run."""
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

from ivmixed import OPTIONS

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_table_of_options_is_the_declaration():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| `([^`]+)` \|$", README, re.MULTILINE)
    assert [name for name, *_ in rows] == [option.name for option in OPTIONS]
    for option, (_, default, allowed, text, key) in zip(OPTIONS, rows, strict=True):
        assert key == option.label
        assert text == option.help
        if option.follows:
            assert default == f"none: as `{option.follows}`" and allowed == f"as `{option.follows}`"
            continue
        value = json.loads(default.strip("`"))
        assert (tuple(value) if isinstance(value, list) else value) == option.default
        if option.spelled:
            assert allowed == option.spelled
        elif option.kind == "choice":
            assert re.findall(r'`"([^"]+)"`', allowed) == list(option.choices)
        else:
            assert f"{option.minimum:g} to {option.maximum:g}" in allowed


def test_the_python_example_prints_what_it_says():
    code, printed = re.search(
        r"## Python API.*?```python\n(.*?)```.*?```\n(.*?)```", README, re.DOTALL).groups()
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue() == printed

"""The documents say what the code does: tables of options as declared, examples run, links that lead somewhere."""
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

from . import options_table

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob(".github/**/*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("training/*.md"),
         *ROOT.glob("tests/vectors/**/*.md")]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def test_the_page_of_all_options_is_the_declaration():
    text = options_table.FILE.read_text()
    assert options_table.written(text) == text, "run python -m tests.options_table"
    seen = options_table.kept(text)
    assert all(seen[option.name] for options in options_table.TABLES.values() for option in options)


def test_the_python_example_prints_what_it_says():
    text = (ROOT / "docs/python.md").read_text()
    code, printed = re.search(r"## The sampler.*?```python\n(.*?)```.*?```\n(.*?)```", text, re.DOTALL).groups()
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "docs/python.md", "exec"), {})
    assert out.getvalue() == printed


def test_the_readme_is_short_and_names_the_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert re.search("^make demo", text, re.MULTILINE) and re.search("^make test", text, re.MULTILINE)


def test_every_relative_link_leads_somewhere():
    broken = [f"{page.relative_to(ROOT)}: {link}" for page in PAGES for link in links(page.read_text())
              if not leads_somewhere(page, link)]
    assert not broken


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text()
    assert all(f"({page.name})" in index for page in ROOT.glob("docs/*.md") if page.name != "README.md")


def test_no_address_is_a_placeholder():
    placeholder = re.compile(r"<[^<>\n]*\b(?:URL|address)\b[^<>\n]*>|\bexample\.(?:com|org)\b|"
                             r"github\.com/(?:owner|user|your)\b|\byour-(?:name|org|user)\b", re.IGNORECASE)
    found = {str(page.relative_to(ROOT)): placeholder.findall(page.read_text()) for page in PAGES}
    assert not any(found.values()), found


def links(text):
    """The relative links of a page."""
    text = FENCED.sub("", text)
    found = re.findall(r"\]\(([^()\s]+)\)", text) + re.findall(r'\b(?:src|srcset|href)="([^"]+)"', text)
    return [link for link in found if not re.match(r"\w+:", link)]


def leads_somewhere(page, link):
    path, _, anchor = link.partition("#")
    target = (page.parent / path if path else page).resolve()
    return target.is_relative_to(ROOT) and target.exists() and (not anchor or anchor in anchors(target.read_text()))


def anchors(text):
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}

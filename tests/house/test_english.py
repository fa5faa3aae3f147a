"""The English of the repository: phrases that have to be read twice are banned."""

import ast
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Headless relative clauses, such as "whoever comes", persons in the place of calls, and articles that do not fit.
BANNED = re.compile(
    r"\bthat (?:is|are) there\b|\bcannot be meant\b|\bso (?:many|long)\b|\bwhoever\b|\bwhatever became\b"
    r"|\b(?:no|some)body\b|\ba (?:HTTP|httpx)|(?-i:(?:^|[.] )Who [a-z]+s\b)",
    re.IGNORECASE,
)
# Rooms that are being rewritten.
EXEMPT = ("src/throttled_openai/_control/",)
FOLDERS = ("src", "tests", "benchmarks")
FILES = [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.[pm][yd]"))]


def texts(path):
    """The whole of a page; the comments and strings of a program, among them docstrings, messages and help texts."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return [source]
    strings = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    with path.open("rb") as file:
        comments = [token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
    return [*(text for text in strings if isinstance(text, str)), " ".join(comments).replace("# ", "")]


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_sentence_has_to_be_translated_first(path):
    if path == Path(__file__) or path.relative_to(ROOT).as_posix().startswith(EXEMPT):
        return
    assert not [match[0] for text in texts(path) for match in BANNED.finditer(" ".join(text.split()))]

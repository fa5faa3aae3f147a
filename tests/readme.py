"""The README's Python blocks."""

from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = list(Sybil(parsers=[PythonCodeBlockParser()], path=str(ROOT)).parse(README).examples())

"""The command `validate`, and what it has in common with `run`: the arguments that say what an input is."""
# ruff: noqa: T201  # a command talks

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from throttled_openai.batch._input import KINDS, Input, InputError
from throttled_openai.batch._sidecar import WrongRunError

from .settings import asked_of
from .survey import survey

if TYPE_CHECKING:
    import argparse

    from throttled_openai._commands.parser import Parser

# What is wrong with options and files, rather than with us.
WRONG: Final = (ValueError, TypeError, InputError, WrongRunError, ImportError)


def add_arguments(parser: Parser) -> None:
    parser.epilog = "Exit codes: 0 all lines are requests, 1 some are not, 2 wrong usage."
    add_input_arguments(parser)
    parser.set_defaults(fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Say what is wrong with a file, without sending any of it."""
    try:
        found = survey(Input(arguments.input, asked_of(arguments)))
    except (*WRONG, OSError) as error:
        return wrong(arguments, error)
    print(found.problems())
    return 1 if found.bad_counts else 0


def add_input_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("input", metavar="INPUT", help="requests: OpenAI's batch lines, or bodies, as JSONL; texts; CSV; Parquet; "
        ".gz and .zst of these; - is standard input")  # fmt: skip
    add("--format", choices=KINDS, help="what the input is, where its name or its first line does not tell")
    add("--url", metavar="ENDPOINT", help="of lines that name none, such as /v1/embeddings")
    add("--model", metavar="NAME", help="of texts and tables; for requests, in place of theirs")
    add("--system", metavar="TEXT", help="system prompt of texts and tables; @FILE is a file's text")
    add("--template", metavar="TEXT", help="prompt of texts and tables, with {text} or names of columns; @FILE")
    add("--column", metavar="NAME", help="of a table: where the texts are")
    add("--id-column", metavar="NAME", help="of a table: where each custom_id is (default: custom_id, or by line)")
    add("--body", metavar="JSON", help="fields of every request's body")
    add("--service-tier", metavar="NAME", help="of every request, such as flex")


def wrong(arguments: argparse.Namespace, error: Exception) -> int:
    """Tell what is wrong, with the usage."""
    arguments.fail(said_of(error) if isinstance(error, OSError) else str(error))
    return 2


def said_of(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror or error}"

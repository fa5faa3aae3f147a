"""The command `validate`, and what it shares with `run`: the arguments that describe an input."""
# ruff: noqa: T201  # a command prints

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from throttled_openai.batch._input import KINDS, Input, InputError
from throttled_openai.batch._sidecar import WrongRunError

from .settings import input_options_of
from .survey import survey

if TYPE_CHECKING:
    import argparse

    from throttled_openai._commands.parser import Parser

# Errors in the options or the files, rather than in our code.
USER_ERRORS: Final = (ValueError, TypeError, InputError, WrongRunError, ImportError)


def add_arguments(parser: Parser) -> None:
    parser.epilog = "Exit codes: 0 all lines are requests, 1 some are not, 2 wrong usage."
    add_input_arguments(parser)
    parser.set_defaults(fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """List the errors of a file. Nothing is sent."""
    try:
        found = survey(Input(arguments.input, input_options_of(arguments)))
    except (*USER_ERRORS, OSError) as error:
        return fail_with_usage(arguments, error)
    print(found.problems())
    return 1 if found.bad_counts else 0


def add_input_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("input", metavar="INPUT", help="file of requests: JSONL of OpenAI's batch lines or of bodies, lines of "
        "text, CSV or Parquet, also as .gz or .zst; - is standard input")  # fmt: skip
    add("--format", choices=KINDS, help="format of the input (default: from its name or its first line)")
    add("--url", metavar="ENDPOINT", help="endpoint of lines that name none, such as /v1/embeddings")
    add("--model", metavar="NAME", help="model for texts and tables; replaces the model of other requests")
    add("--system", metavar="TEXT", help="system prompt for texts and tables; @FILE reads it from a file")
    add("--template", metavar="TEXT", help="prompt for texts and tables, with {text} or {column}; or @FILE")
    add("--column", metavar="NAME", help="column of a table that contains the texts")
    add("--id-column", metavar="NAME", help="column with each custom_id (default: custom_id, else the line number)")
    add("--body", metavar="JSON", help="JSON object with fields to add to every request body")
    add("--service-tier", metavar="NAME", help="service tier of every request, such as flex")


def fail_with_usage(arguments: argparse.Namespace, error: Exception) -> int:
    """Report an error together with the usage. Returns the exit code."""
    arguments.fail(message_of(error) if isinstance(error, OSError) else str(error))
    return 2


def message_of(error: OSError) -> str:
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror or error}"

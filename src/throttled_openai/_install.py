"""Throttling for a whole program: every client of the SDK that it makes, wherever it has the class from."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from openai import AsyncOpenAI, OpenAI

from ._options import OPTIONS, THROTTLE_OPTIONS, read_options
from ._pool import http_client
from ._seam import Seam
from ._spelling import check_names, did_you_mean
from ._throttle import Throttle, logger
from ._wrap import throttled_class

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from ._core.stats import Stats
    from ._options import Options

# Settings that a variable of the environment may hold, as THROTTLED_OPENAI_RPM=500.
VARIABLES: Final[Mapping[str, type[Any]]] = {
    **dict.fromkeys(("rpm", "tpm", "rpd", "tpd", "max_wait"), float),
    **dict.fromkeys(("max_concurrency", "max_refusals", "max_queued", "priority"), int),
    **dict.fromkeys(("dialect", "pool"), str),
}
_SAYS: Final[Mapping[type[Any], str]] = {float: "a number such as 500", int: "a whole number such as 100"}
_PREFIX: Final = "THROTTLED_OPENAI_"
# Variables by which `exec` tells the processes of a program that they are that.
_OF_EXEC: Final = ("exec", "exec_pid")
_CLASSES: Final = (AsyncOpenAI, OpenAI)


class _Installation:
    """What `install()` was told, and the throttle of each account that has been met since."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self._limits = {name: options[name] for name in THROTTLE_OPTIONS if name in options}
        self._shared: Throttle | None = options.get("throttle")
        self._throttles: dict[object, tuple[str, Throttle]] = {}
        self._adding = threading.Lock()
        self._process = first_process()

    def throttle_of(self, client: Any) -> Throttle:
        """One for all clients of an account: programs make many, even one for each call.

        Keys that a function gives are not told apart: there may be a new function for each client.
        """
        url = client.base_url
        key = client.api_key, client.organization, client.project
        account = url.scheme, url.host, url.port, *(key if client.api_key else ())
        if self._process != os.getpid():
            self._process = os.getpid()
            logger.warning(
                "process %d, which the program has started, has the whole limit: processes do not share limits yet. "
                "Where several work at once, give each its part, such as %sRPM=100 of 500 for five",
                os.getpid(),
                _PREFIX,
            )
        with self._adding:
            if account not in self._throttles:
                self._throttles[account] = url.host, self._shared or Throttle(**self._limits, threads=True)
            return self._throttles[account][1]

    def is_account(self, throttle: Throttle) -> bool:
        """Whether it is one of those, and not a copy's with limits of its own."""
        return any(throttle is each for _, each in list(self._throttles.values()))

    def stats(self) -> list[tuple[str, Stats]]:
        return [(host, throttle.stats()) for host, throttle in list(self._throttles.values())]


_installed: _Installation | None = None


def install(**options: Unpack[Options]) -> None:
    """Throttle every client of the SDK that this program makes from now on, libraries' own included.

    `AsyncOpenAI`, `OpenAI`, their Azure twins and classes built on them give throttled clients, from
    wherever they were imported; clients made before stay as they are. All clients of one account, that
    is of one server and key, in whatever thread or event loop, share one `Throttle`. The options are
    those of `ThrottledAsyncOpenAI`; those left out are taken from the environment
    (`THROTTLED_OPENAI_RPM`, `THROTTLED_OPENAI_MAX_WAIT`, ...). `throttle` has to have `threads=True`;
    `pool` is for asynchronous clients.

    Throttling is for this process: others that it starts and that are not forked have to call `install()`
    themselves, and each process has the whole limit.

    Raises `RuntimeError` when it is installed already, `ValueError` or `TypeError` for invalid options.
    """
    global _installed  # noqa: PLW0603  # as the classes are, which it changes
    if _installed is not None:
        raise RuntimeError("throttling is installed already: call uninstall() before install() with other options")
    given = checked(options)
    if first_process() == os.getpid():
        _warn_of_unknown_variables()
    _installed = _Installation(given)
    for cls in _CLASSES:
        cls.__new__ = _new  # type: ignore[method-assign]
        cls.__signature__ = _Signature()  # type: ignore[union-attr]


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an installation, with those from the environment; raises for invalid ones."""
    check_names("install", options, OPTIONS)
    given = {**_from_environment(), **{name: value for name, value in options.items() if value is not None}}
    throttle, _, _, pool = read_options(dict(given), threads=True)
    if pool is not None:
        http_client(pool, most_in_flight=throttle.most_connections)
    return given


def first_process() -> int:
    """Number of the process that is the program; this one, unless `exec` runs the program and it started this one."""
    number = os.environ.get(f"{_PREFIX}EXEC_PID", "")
    return int(number) if number.isdecimal() else os.getpid()


def uninstall() -> None:
    """Clients made from now on are the SDK's own again; those made before stay throttled."""
    global _installed  # noqa: PLW0603
    _installed = None


def installed_stats() -> list[tuple[str, Stats]]:
    """Host and figures of each account met since `install()`."""
    return [] if _installed is None else _installed.stats()


def _new(cls: Any, *args: Any, **options: Any) -> Any:
    """What stays in the SDK's classes: one that had a `__new__` cannot be without again."""
    del args, options
    return object.__new__(cls if _installed is None or issubclass(cls, Seam) else _installed_class(cls))


class _Signature:
    """What `inspect.signature` says of a class with our `__new__`: what it said before."""

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        _, *parameters = inspect.signature(owner.__init__).parameters.values()
        return inspect.Signature(parameters)


class _Installed:
    """Before a throttled class: options are those of the installation, and the throttle its account's."""

    def __init__(self, *args: Any, **options: Any) -> None:
        installation = _installed
        if installation is None:  # a copy of a client that was made before
            super().__init__(*args, **options)
            return
        throttle = options.pop("throttle", None)
        options = {**installation.options, **options}
        if options.get("http_client") is not None or isinstance(self, OpenAI):
            options.pop("pool", None)
        super().__init__(*args, **options)
        # A copy may be for another account.
        if throttle is None or installation.is_account(throttle):
            throttle = installation.throttle_of(self)
        self.throttle = throttle

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What `copy.copy` does with a client that was made before."""
        vars(self).update(state)
        if "throttle" not in state and _installed is not None:
            made: Any = self
            made._take_options(dict(_installed.options))  # noqa: SLF001
            self.throttle = _installed.throttle_of(self)


@functools.cache
def _installed_class(cls: Any) -> type[Any]:
    """A throttled `cls` that says it is a `cls`."""
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls.__name__, (_Installed, throttled_class(cls)), names)


def _from_environment() -> dict[str, Any]:
    found = {}
    for name, read in VARIABLES.items():
        variable = f"{_PREFIX}{name.upper()}"
        text = os.environ.get(variable, "").strip()
        if text:
            try:
                found[name] = read(text)
            except ValueError:
                raise ValueError(f"{variable} must be {_SAYS[read]}; it is {text!r}") from None
    return found


def _warn_of_unknown_variables() -> None:
    known = [f"{_PREFIX}{name.upper()}" for name in (*VARIABLES, *_OF_EXEC)]
    for variable in os.environ:
        if variable.startswith(_PREFIX) and variable not in known:
            logger.warning("%s is ignored: there is no such option%s", variable, did_you_mean(variable, known))

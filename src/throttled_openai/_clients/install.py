"""Throttling for a whole program: every SDK client it creates, however it imported the class."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from typing import TYPE_CHECKING, Any, ClassVar, Final

from openai import AsyncOpenAI, OpenAI

from throttled_openai._admission.throttle import dispatcher_of
from throttled_openai._pool import http_client
from throttled_openai._spelling import check_names, did_you_mean

from .base import ThrottledBase
from .live import begin_if_asked, view
from .options import OPTIONS, THROTTLE_OPTIONS, read_options, text_type_of
from .shared import shared
from .wrap import throttled_class

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from throttled_openai._stats import Stats

    from .options import Options

# Options that environment variables may set, such as THROTTLED_OPENAI_RPM=500.
VARIABLES: Final[Mapping[str, type[Any]]] = {
    option: kind for option in OPTIONS if (kind := text_type_of(option)) is not None
}
_SAYS: Final[Mapping[type[Any], str]] = {float: "a number such as 500", int: "a whole number such as 100"}
_PREFIX: Final = "THROTTLED_OPENAI_"
# Variables that `exec` sets for the processes of the program it runs.
_OF_EXEC: Final = ("exec", "exec_pid")
# Variables that say yes or no.
_SWITCHES: Final = ("enforce", "top")
_CLASSES: Final = (AsyncOpenAI, OpenAI)

logger = logging.getLogger("throttled_openai")


_installed: dict[str, Any] | None = None  # the options given to `install()`
_warned: int | None = None  # the process that has logged the warning about its limits


def install(*, top: bool = False, **options: Unpack[Options]) -> None:
    """Throttle every client of the SDK that this program makes from now on, libraries' own included.

    `AsyncOpenAI`, `OpenAI`, their Azure variants and their subclasses then create throttled clients, however
    they were imported; clients made before stay unchanged. All clients of one account, that is of one
    server and key, share one `Throttle`, in every thread and event loop. The options are
    those of `ThrottledAsyncOpenAI`; those left out are taken from the environment
    (`THROTTLED_OPENAI_RPM`, `THROTTLED_OPENAI_MAX_WAIT`, ...). `pool` is for asynchronous clients.
    `top=True`, or `THROTTLED_OPENAI_TOP=1`, lets `throttled-openai top` of the same user look at this process.

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
    _installed = given
    if top:
        view.begin()
    begin_if_asked()
    shared.forget()  # throttles of earlier clients are not shared with new ones
    for cls in _CLASSES:
        cls.__new__ = _new  # type: ignore[method-assign]
        cls.__signature__ = _Signature()  # type: ignore[union-attr]


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an installation, with those from the environment; raises for invalid ones."""
    check_names("install", options, OPTIONS)
    given = {**_from_environment(), **{name: value for name, value in options.items() if value is not None}}
    throttles, _, _, pool = read_options(dict(given), threads=True)
    if pool is not None:
        http_client(pool, most_in_flight=dispatcher_of(throttles.latest).most_connections)
    return given


def first_process() -> int:
    """Process number of the program: this one, unless a program run by `exec` started this one."""
    number = os.environ.get(f"{_PREFIX}EXEC_PID", "")
    return int(number) if number.isdecimal() else os.getpid()


def _warn_of_process() -> None:
    """Warn once that this process, which the program has started, uses the whole limit by itself."""
    global _warned  # noqa: PLW0603
    process = os.getpid()
    if process not in (first_process(), _warned):
        _warned = process
        logger.warning(
            "process %d, which the program has started, has the whole limit: processes do not share limits yet. "
            "Where several work at once, give each its part, such as %sRPM=100 of 500 for five",
            process,
            _PREFIX,
        )


def uninstall() -> None:
    """Clients made from now on are the SDK's own again; those made before stay throttled."""
    global _installed  # noqa: PLW0603
    _installed = None


def installed_stats() -> list[tuple[str, Stats]]:
    """Host and figures of each account used now or within the last hour."""
    given = None if _installed is None else _installed.get("throttle")
    if given is not None:
        return [("all accounts", given.stats())]
    return [(account.host, stats) for account, stats in shared.stats()]


def _new(cls: Any, *args: Any, **options: Any) -> Any:
    """The `__new__` of the SDK's classes; it stays after `uninstall()`, as it cannot be removed cleanly."""
    del args, options
    return object.__new__(cls if _installed is None or issubclass(cls, ThrottledBase) else _installed_class(cls))


class _Signature:
    """The signature of a class with our `__new__`: the same as without."""

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        _, *parameters = inspect.signature(owner.__init__).parameters.values()
        return inspect.Signature(parameters)


class _Installed:
    """Comes before a throttled class: adds the options given to `install()`."""

    _threads: ClassVar = True

    def __init__(self, *args: Any, **options: Any) -> None:
        _warn_of_process()
        # A copy keeps the options of its original.
        inherited = {name for name in OPTIONS if name in options}
        own = dict(_installed or {})
        if not inherited.isdisjoint(("throttle", *THROTTLE_OPTIONS)):
            own = {name: value for name, value in own.items() if name not in ("throttle", *THROTTLE_OPTIONS)}
        options = {**own, **options}
        if options.get("http_client") is not None or isinstance(self, OpenAI):
            options.pop("pool", None)
        super().__init__(*args, **options)
        made: Any = self
        made._throttles.keeps = True  # noqa: SLF001
        assert made.throttle is not None  # registers its account, even before the first call

    __init__.takes_all = True  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For `copy.copy` of a client made before `install()`."""
        vars(self).update(state)
        if "_throttles" not in state and _installed is not None:
            made: Any = self
            made._take_options(dict(_installed))  # noqa: SLF001
            made._throttles.keeps = True  # noqa: SLF001


@functools.cache
def _installed_class(cls: Any) -> type[Any]:
    """A throttled subclass of `cls` with the name of `cls`."""
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
    if os.environ.get(f"{_PREFIX}ENFORCE", "").strip().lower() in {"0", "no", "off", "false"}:
        found["enforce"] = False
    return found


def _warn_of_unknown_variables() -> None:
    known = [f"{_PREFIX}{name.upper()}" for name in (*VARIABLES, *_OF_EXEC, *_SWITCHES)]
    for variable in os.environ:
        if variable.startswith(_PREFIX) and variable not in known:
            logger.warning("%s is ignored: there is no such option%s", variable, did_you_mean(variable, known))

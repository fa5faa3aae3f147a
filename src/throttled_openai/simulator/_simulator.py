"""The simulator: the server as its users hold it, with transports, counters and a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._carriers.memory import transport_of
from ._server import Server

if TYPE_CHECKING:
    import httpx
    import httpx2

    from ._log import Attempt


class Simulator(Server):
    """A rate-limited server with OpenAI's interface, arithmetic and words.

    `transport()` and `transport2()` put it behind an httpx or httpx2 client in this process, on
    the running loop's clock; `serve` and `spawn` put it on a TCP port. Settings and `faults` may
    change while it runs.
    """

    def __repr__(self) -> str:
        seen, limits = self.counters, self.settings
        return (
            f"<Simulator [{seen.in_flight} in flight, {seen.succeeded} succeeded, {seen.refused} refused"
            f" | {_limit(limits.rpm)} rpm, {_limit(limits.tpm)} tpm]>"
        )

    def transport(self) -> httpx.AsyncBaseTransport:
        """For `httpx.AsyncClient(transport=...)`."""
        import httpx  # noqa: PLC0415

        transport: httpx.AsyncBaseTransport = transport_of(self, httpx)
        return transport

    def transport2(self) -> httpx2.AsyncBaseTransport:
        """For `httpx2.AsyncClient(transport=...)`."""
        import httpx2  # noqa: PLC0415  # not every supported SDK brings it

        transport: httpx2.AsyncBaseTransport = transport_of(self, httpx2)
        return transport

    def drain(self, model: str, *, requests: float = 0, tokens: float = 0, now: float | None = None) -> None:
        """Let another client of the account take units of `model`, or what is left if that is less."""
        now = self._now(now)
        self._gate.limits_of(model, self.settings, now).drain(requests, tokens, now)

    @property
    def log(self) -> list[Attempt]:
        """The latest metered attempts, in order of arrival; at most `keep_log`."""
        return list(self._log)

    @property
    def attempts(self) -> int:
        return self.counters.attempts

    @property
    def succeeded(self) -> int:
        return self.counters.succeeded

    @property
    def refused(self) -> int:
        return self.counters.refused

    @property
    def in_flight(self) -> int:
        return self.counters.in_flight

    @property
    def peak_in_flight(self) -> int:
        return self.counters.peak_in_flight

    @property
    def open_streams(self) -> int:
        return self.counters.open_streams

    @property
    def connections(self) -> int:
        """TCP connections open now."""
        return self.counters.connections


def _limit(limit: float | None) -> str:
    return "no" if limit is None else f"{limit:,.0f}"

"""The address of the server: whether it is valid, whether it is near, and how it is shown."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_address(base_url: str) -> bool:
    try:
        parts = urlsplit(base_url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # an impossible port, unbalanced brackets
        return False


def is_near(base_url: str) -> bool:
    """True if the server is on this machine or in a private network, where calls cost no money."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host.endswith((".localhost", ".local", ".internal")) or "." not in host


def redacted_url(base_url: str) -> str:
    """The address without parts that may be secret: user, password and query."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path}"

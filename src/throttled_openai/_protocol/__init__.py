"""READ. Interpret what providers write and what requests cost: pure functions of bytes, headers and URLs.

Nothing here reads a clock, does I/O or knows the SDK.
"""

"""READ. Interpret what providers write and what requests cost: pure functions of bytes, headers and URLs.

Nothing here reads a clock, does I/O or knows the SDK.

providers, account, endpoints  whose API it is, which account calls, and which requests count
estimate, text_size, fields    what a request will cost
usage, stream_tail             what a response reports as used
headers, durations             the limits that responses announce
refusals                       why a response refuses, from
error_body, named_limit, billing, retry_after
"""

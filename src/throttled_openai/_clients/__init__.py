"""CALL. The SDK's clients with a throttle before every attempt, and the ways to get one.

base, async_client, sync_client  the throttled clients
options, signature               the arguments that they add to the SDK's
wrap, rebind                     a throttled client made from an existing one, with the wrappers that tools put there
http_client                      a throttled view of an httpx client
install                          throttles every client of a program
shared, credentials              which clients share a throttle: those of one account
gather, bar                      `gather` and `as_completed` with a progress bar
live                             the socket through which `throttled-openai top` looks at this process
waits                            waiting calls, which end when their client is closed
raw                              calls with bodies in bytes, for files of requests
sdk                              the installed SDK and its hooks
"""

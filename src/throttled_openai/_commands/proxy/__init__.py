"""The command `proxy`: a local server that admits calls, queues them, paces them and passes them on.

`cli` starts and stops it. `app` passes one call on. `upstream` says where a call goes and which headers go along,
`answers` has the answers that the proxy gives itself, without the upstream server. `record` writes the log.
"""

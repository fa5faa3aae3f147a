"""The command `proxy`: a local server that admits calls, queues them, paces them and passes them on.

`cli` starts and stops it. `app` passes one call on. `upstream` says where a call goes and which headers go along,
`answers` what the caller is told where the upstream server is not the one that answers, `record` what is logged.
"""

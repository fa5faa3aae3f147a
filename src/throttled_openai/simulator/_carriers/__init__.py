"""How replies reach a client: an HTTP transport in memory, or HTTP/1.1 on a TCP port."""

"""SEND. One attempt over HTTP: its permit, its response, and what both mean for the next attempt."""

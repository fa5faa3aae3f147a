"""SEND. One attempt over HTTP: its permit, its response, and what both mean for the next attempt.

send, send_sync  the async and the blocking sender
settlement       how one response or failure settles its permit
readmission      whether a refused call is sent again
"""

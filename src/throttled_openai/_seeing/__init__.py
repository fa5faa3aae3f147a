"""SHOW. What people and their tools are told of a throttle.

events       what happens to its calls, for subscribers
explanation  why calls wait and until when, worked out from the statistics alone
"""

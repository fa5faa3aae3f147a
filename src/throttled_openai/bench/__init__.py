"""The bench: measures a live endpoint through our own client, and says how many calls in flight suit it.

A load (`_load`) is one step (`_step`) or the several of a sweep (`_sweep`). Each call (`_call`) goes to
an endpoint (`_endpoint`) and leaves its times behind, of which figures (`_figures`) are made; a report
(`_report`) shows them as a table, JSON, or a page (`_page`) with charts (`_chart`).
"""

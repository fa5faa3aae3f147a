"""The bench: measures a live endpoint through our own client, and recommends a concurrency.

_cli, _arguments        the command and its options
_plan                   what one run measures
_measure, _step         the steps of a run, and one load through the client
_sweep                  which concurrency to measure next, and which to recommend
_report, _page          the results as text, JSON and HTML, from
_step_result, _tables, _notes, _chart
_load, _endpoint, _call what is sent and when, to which endpoint, and the times of one call
_figures                the arithmetic: percentiles, rates, time bins
"""

"""The bench: measures a live endpoint through our own client, and recommends a concurrency.

cli, arguments        the command and its options
address, command_line the server's address and the command line, as they are shown
plan                  what one run measures
measure, step         the steps of a run, and one load through the client
sweep                 which concurrency to measure next, and which to recommend
report, page          the results as text, JSON and HTML, from
step_result, tables, notes, chart
load, endpoint, call  what is sent and when, to which endpoint, and the times of one call
figures               the arithmetic: percentiles, rates, time bins
bounds                which calls are good, for the goodput
"""

"""The demonstration: the same calls through three clients, timed, on the simulator or a real account.

_cli        the command and its options
_contender  the three ways of sending the calls
_race       the three clients, one after the other
_tally      the running count of one client's calls
_result     how one client did, and the table and sentences that compare them
"""

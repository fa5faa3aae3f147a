"""The demonstration: the same calls through three clients, timed, on the simulator or a real account.

cli        the command and its options
contender  the three ways of sending the calls
race       the three clients, one after the other
tally      the running count of one client's calls
result     how one client did, and the table and sentences that compare them
"""

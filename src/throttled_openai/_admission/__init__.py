"""WAIT. The throttle, the queues before its budgets, and the permits that calls wait for.

throttle              what users see: options and figures
dispatcher            admits calls and settles attempts, on one event loop at a time
limiters, limiter     one budget with its concurrency limit and its queue, for each account and model
queue, overtaking     which waiting call goes next
gate, notices         when a limiter sends nothing, and the errors and warnings for its waiting calls
breaker, patience     refusals that stop every call; whether a refused call is worth sending again
call, permit          one call with its options; the right to one attempt
portal, posted_permit decisions for callers in other threads
home, homes           the event loops that calls come from
in_flight, file_limit the ceiling of all models together
loop_lag, stall       a late event loop; attempts that will never be settled by themselves
timer, rates          when to look again; the rate that a budget allows
figures, changes      counts and latest waits; what is said when a limit or pause changes
diagnosis             whether a refusal was for lack of room or for a rate
"""

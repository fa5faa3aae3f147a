"""What the account allows: buckets and windows, the quotas made of them, and all limits of one model.

Pure arithmetic: instants come in as arguments. Nothing here knows how a limit is worded or sent.
"""

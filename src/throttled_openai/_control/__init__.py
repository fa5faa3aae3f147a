"""DECIDE. What may be sent now, from evidence: no I/O, no waiting, no SDK. Time is an argument."""

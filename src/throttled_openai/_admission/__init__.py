"""WAIT. The throttle, the queues before its budgets, and the permits that calls wait for."""

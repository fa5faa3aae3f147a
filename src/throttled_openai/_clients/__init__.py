"""CALL. The SDK's clients with a throttle before every attempt, and the ways to get one."""

"""READ. What providers write, and what requests cost: pure functions of bytes, headers and URLs. No clock, no I/O."""

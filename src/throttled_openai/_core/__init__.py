"""What the library decides: no I/O, no awaiting, no SDK. Time is an argument."""

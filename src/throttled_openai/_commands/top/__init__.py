"""TOP. The live view of a running program."""

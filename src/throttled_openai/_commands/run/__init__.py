"""The commands `run` and `validate`: files of requests, from the command line to the report."""

"""RUN. The command `throttled-openai` and its subcommands."""

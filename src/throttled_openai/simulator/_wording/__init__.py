"""What is said about limits: the headers and error bodies of OpenAI and of the providers that differ from it."""

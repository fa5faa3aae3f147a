"""What a client asks for: the checked fields of a metered request, and what the request is measured to cost."""

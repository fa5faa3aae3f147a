"""The promise as a test: on the same server, ours is never worse than the SDK's own client, and never silent."""

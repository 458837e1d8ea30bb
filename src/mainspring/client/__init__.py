"""The typed HTTP client: the only way into the server for SDK and CLI."""

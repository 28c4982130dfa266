"""tap-resilient: any HTTP API, by configuration, to Singer messages."""

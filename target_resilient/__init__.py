"""target-resilient: any Singer stream into DuckDB or PostgreSQL, validated, idempotent, crash-safe."""

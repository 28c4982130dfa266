"""The kernel under tap-resilient, target-resilient and monitor-resilient."""

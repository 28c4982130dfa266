"""Alerts: when they are due, where they go."""

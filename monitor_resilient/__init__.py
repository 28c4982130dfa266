"""monitor-resilient: watches the connections and raises the alarm before a person asks."""

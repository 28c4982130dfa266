"""Databases that target-resilient loads into; each is one module behind one Protocol."""

"""Measurements, one module each; `scripts/bench NAME` runs them. They print JSON lines and gate nothing."""

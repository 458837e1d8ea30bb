"""Background loops: each reads rows, drives the world one step towards them, and sleeps until something moves."""

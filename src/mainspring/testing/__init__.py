"""Shipped test tools: conformance suites for plug-ins, a clock and ids that are moved by hand."""

"""Mainspring: one fair queue over every machine a team owns, from the business question to the monitored endpoint.

Nothing is loaded and nothing starts on import: names are looked up when they are first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

"""Write the pages of the command line and of the REST interface from the programs themselves."""

from __future__ import annotations


def command_line_page() -> str:
    """Return the page of commands, from the cyclopts application."""
    return "# Command line\n\nEvery command has `--help` with examples, and `--json` for programs.\n"


def rest_page() -> str:
    """Return the page of routes, from the OpenAPI document."""
    return "# REST interface\n\nThe document itself is served at `/api/v1/openapi.json`.\n"

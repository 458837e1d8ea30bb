"""One command, `mainspring`: tables for people, `--json` for programs."""

"""`mainspring completion`: the script that lets a shell complete commands and options."""

from __future__ import annotations

import sys
from typing import Literal

from mainspring.cli.dispatch import build_app


def completion(shell: Literal["bash", "zsh", "fish"] = "bash", /) -> None:
    """Print the completion script of a shell: `source <(mainspring completion bash)`."""
    sys.stdout.write(build_app().generate_completion(shell=shell))

"""`mainspring completion`: the script that lets a shell complete commands and options."""

from __future__ import annotations

import re
import sys
from typing import Literal

from mainspring.cli.dispatch import build_app
from mainspring.cli.options import Json
from mainspring.cli.output import emit_json

_WORD = re.compile(r"'((?:\d+|\*):(?:[^':\\]|\\.)+)'")  # a word of which zsh is not told what it may be
# zsh reads such a script in two ways: sourced, then it registers itself; or from $fpath when first asked, then it answers.
_ZSH_END = """
if [[ "$funcstack[1]" == _mainspring ]]; then
  _cyclopts_mainspring "$@"
else
  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
  compdef _cyclopts_mainspring mainspring
fi
"""


def completion(shell: Literal["bash", "zsh", "fish"] = "bash", /, *, as_json: Json = False) -> None:
    """Print the completion script of a shell: `source <(mainspring completion bash)`.

    The same for zsh; for fish: `mainspring completion fish | source`. In the file that a shell reads first it holds
    for good.
    """
    made = script(shell)
    emit_json({"shell": shell, "script": made}) if as_json else sys.stdout.write(made)


def script(shell: Literal["bash", "zsh", "fish"]) -> str:
    """Return the script; where no command or option is meant, files are completed."""
    made = build_app().generate_completion(shell=shell)
    if shell == "bash":
        return made.replace("complete -F ", "complete -o default -F ")
    return _WORD.sub(r"'\1:_default'", made) + _ZSH_END if shell == "zsh" else made

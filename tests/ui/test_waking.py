"""What loading the pages brings into the server's process, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import sys
from mainspring.ui import waking
waking.load_pages()
print(sorted({"nicegui", *waking.UNUSED} & set(sys.modules)))
import aiohttp, requests
print(aiohttp.__name__, requests.__name__)
"""


def test_the_pages_bring_no_http_clients_and_others_may_still_import_them() -> None:
    told = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert told.stdout == "['nicegui']\naiohttp requests\n"

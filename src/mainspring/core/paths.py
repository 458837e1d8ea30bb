"""Names of files that come from elsewhere: which of them stay below their folder. Loads nothing, for user code's sake."""

from __future__ import annotations


def is_safe_path(path: str) -> bool:
    """Say whether `path` is relative, `/` separated and stays below its folder."""
    if not path or len(path) > 4096 or path.startswith("/") or "\\" in path or "\x00" in path:
        return False
    return all(part not in ("", ".", "..") and len(part.encode("utf-8", "surrogatepass")) <= 255 for part in path.split("/"))

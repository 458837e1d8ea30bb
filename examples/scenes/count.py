"""Count, save, and go on from what was saved: also when the node under it dies.

mainspring run examples/scenes/count.py
"""

import os
import pathlib
import time

import mainspring as ms

LAST = int(os.environ.get("LAST", "200"))


def main() -> None:
    """Count to LAST; every step is a checkpoint."""
    state = pathlib.Path(ms.checkpoint_dir) / "state"
    begin = int(state.read_text()) if ms.is_resumed() else 0
    print("begins with", begin, "on", os.uname().nodename, flush=True)
    for step in range(begin, LAST):
        with ms.writing_checkpoint() as folder:
            (folder / "state").write_text(str(step + 1))
        time.sleep(0.2)
        if begin and step > begin + 3:
            break
    print("counted", flush=True)


if __name__ == "__main__":
    main()

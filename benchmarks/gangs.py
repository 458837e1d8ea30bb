"""How fast are gangs of 9 placed, all or nothing? That part of `plan` by itself.

python -m benchmarks.gangs [--nodes 5000] [--gangs 1000] [--scorers fill,pack]
"""

from __future__ import annotations

import argparse

from benchmarks.plan import gangs


def main() -> None:
    """Report each scorer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--gangs", type=int, default=1000)
    parser.add_argument("--scorers", default="fill,pack")
    given = parser.parse_args()
    for scorer in given.scorers.split(","):
        gangs(scorer, given.nodes, given.gangs)


if __name__ == "__main__":
    main()

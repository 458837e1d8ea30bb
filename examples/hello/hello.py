"""Say hello from wherever it runs. It knows nothing of Mainspring: any script, in any language, is run like this.

mainspring run examples/hello/hello.py -- --name you
"""

import argparse
import os
import platform


def main() -> None:
    """Print who runs where, and what was granted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="world")
    given = parser.parse_args()
    print(f"hello, {given.name}, from {platform.node()} under Python {platform.python_version()}")
    print(f"CPU threads: {os.environ.get('OMP_NUM_THREADS', 'as many as there are')}")
    print(f"GPUs: {os.environ.get('CUDA_VISIBLE_DEVICES') or 'none'}")


if __name__ == "__main__":
    main()

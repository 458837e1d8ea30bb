"""Keras and PyTorch programs go on where the try before them was stopped. Both are the real ones, where they are installed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import mainspring

# of the same version as ours: it loads our packages
SYSTEM_PYTHON = shutil.which(f"python{sys.version_info[0]}.{sys.version_info[1]}", path="/usr/bin")
HAS_TORCH = SYSTEM_PYTHON is not None and Path("/usr/lib/python3/dist-packages/torch").is_dir()
KERAS = """
import os
os.environ['KERAS_BACKEND'] = 'jax'
import json, sys, keras, numpy as np, mainspring as ms
stop_after, every = int(sys.argv[1]), int(sys.argv[2])
keras.utils.set_random_seed(1)
x = np.arange(64, dtype='float32').reshape(32, 2) / 64
model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
model.compile(optimizer='adam', loss='mse')
seen = []
def look(epoch, logs):
    if not seen and ms.is_resumed():
        print('first', int(model.optimizer.iterations))
    seen.append(epoch)
def after(epoch, logs):
    if epoch == stop_after:
        open(os.path.join(os.environ['MAINSPRING_SPOOL'], 'stop_requested'), 'w').close()
spy = keras.callbacks.LambdaCallback(on_epoch_begin=look, on_epoch_end=after)
callbacks = [spy, ms.keras_callback(every=every)]
model.fit(x, x.sum(1), epochs=5, batch_size=8, verbose=0, shuffle=False, callbacks=callbacks)
print(json.dumps([seen, int(model.optimizer.iterations), float(np.asarray(model.weights[0]).sum())]))
"""

# what of torch is used, over pickle: quick, and where the real one is missing
TORCH = """
import pickle
__version__ = '2.9.1+cpu'
def save(value, path):
    with open(path, 'wb') as file: pickle.dump(value, file)
def load(path, map_location, weights_only):
    assert (map_location, weights_only) == ('cpu', True)
    with open(path, 'rb') as file: return pickle.load(file)
def get_rng_state(): return 7
def set_rng_state(state): assert state == 7
"""

LOOP = """
import os, sys, mainspring as ms
class Part:
    def __init__(self): self.value = 0
    def state_dict(self): return {'value': self.value}
    def load_state_dict(self, state): self.value = state['value']
model, optimizer = Part(), Part()
done = []
for step in ms.torch_checkpoint(model, optimizer).steps(10, every=3):
    done.append(step); model.value += step; optimizer.value -= 1
    if step == int(sys.argv[1]): os._exit(9)
    if step == int(sys.argv[2]): open(os.path.join(os.environ['MAINSPRING_SPOOL'], 'stop_requested'), 'w').close()
print(done, model.value, optimizer.value)
"""


# the real one, as the operating system packages it: a wheel comes with 5 GB of CUDA
REAL = """
import os, sys, torch, mainspring as ms
torch.manual_seed(5)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
done = []
for step in ms.torch_checkpoint(model, optimizer).steps(10, every=3):
    optimizer.zero_grad()
    model(torch.randn(16, 4)).pow(2).mean().backward()
    optimizer.step()
    done.append(step)
    if step == int(sys.argv[1]): os._exit(9)
print(done, [one.tolist() for one in model.parameters()])
"""


class Tries:
    """Tries of one run: each finds the checkpoint folder as the one before it left it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder, self.spool = root / "checkpoint", root / "spool"
        self.folder.mkdir()
        self.spool.mkdir()

    def run(
        self, code: str, *args: object, python: str = sys.executable, path: Sequence[str] = (), **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run code as the next try."""
        (self.spool / "stop_requested").unlink(missing_ok=True)
        places = {"MAINSPRING_SPOOL": str(self.spool), "MAINSPRING_CHECKPOINT": str(self.folder)}
        resumed = {"MAINSPRING_RESUME": "1"} if list(self.folder.iterdir()) else {}
        found = os.pathsep.join([str(self.root), *path, os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, **places, **resumed, "PYTHONPATH": found, **more}
        words = [python, "-c", code, *(str(one) for one in args)]
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def tries(tmp_path: Path) -> Tries:
    return Tries(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is missing: uv sync --group test-frameworks")
def test_keras_goes_on_after_its_last_epoch(tries: Tries, tmp_path: Path) -> None:
    first = tries.run(KERAS, 1, 1)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)[:2] == [[0, 1], 8]
    assert [path.name for path in tries.folder.iterdir()] == ["keras-00000002.weights.h5"]
    points = [json.loads(line) for line in (tries.spool / "metrics").read_text().splitlines()]
    assert [(name, step) for name, _, step, _ in points] == [("loss", 0), ("loss", 1)]
    second = tries.run(KERAS, 9, 1)
    assert second.returncode == 0, second.stderr
    told, ended = second.stdout.splitlines()
    assert told == "first 8"
    seen, iterations, weights = json.loads(ended)
    assert (seen, iterations) == ([2, 3, 4], 20)
    (tmp_path / "whole").mkdir()
    whole = Tries(tmp_path / "whole").run(KERAS, 9, 10)  # never stopped, never saved
    assert json.loads(whole.stdout) == [[0, 1, 2, 3, 4], 20, pytest.approx(weights)]
    assert [path.name for path in (tmp_path / "whole" / "checkpoint").iterdir()] == []


def test_torch_goes_on_after_the_step_that_was_saved(tries: Tries) -> None:
    (tries.root / "torch.py").write_text(TORCH)
    assert tries.run(LOOP, 7, 99).returncode == 9
    assert [path.name for path in tries.folder.iterdir()] == ["torch.pt"]
    second = tries.run(LOOP, 99, 8)  # asked to end: it saves, then leaves the loop
    assert second.stdout == f"[6, 7, 8] {sum(range(9))} -9\n", second
    assert tries.run(LOOP, 99, 99).stdout == f"[9] {sum(range(10))} -10\n"


@pytest.mark.engine
def test_a_real_torch_goes_on_as_if_it_had_never_stopped(
    tries: Tries, tmp_path: Path, need: Callable[[bool, str, str], None]
) -> None:
    """Weights, the optimizer's moments and the random numbers: after a crash they end up as in one go, to the last bit."""
    need(HAS_TORCH, "PyTorch of this system's Python", "apt-get install --no-install-recommends python3-torch")
    with_ours = [str(Path(mainspring.__file__).parents[1]), sysconfig.get_path("purelib")]
    assert tries.run(REAL, 7, python=str(SYSTEM_PYTHON), path=with_ours).returncode == 9
    assert [path.name for path in tries.folder.iterdir()] == ["torch.pt"]
    second = tries.run(REAL, 99, python=str(SYSTEM_PYTHON), path=with_ours)
    assert second.stdout.startswith("[6, 7, 8, 9] "), second
    (tmp_path / "whole").mkdir()
    whole = Tries(tmp_path / "whole").run(REAL, 99, python=str(SYSTEM_PYTHON), path=with_ours)
    assert whole.stdout.partition("] ")[2] == second.stdout.partition("] ")[2], whole


def test_only_the_first_replica_saves(tries: Tries) -> None:
    (tries.root / "torch.py").write_text(TORCH)
    assert tries.run(LOOP, 99, 99, MAINSPRING_REPLICA="1").returncode == 0
    assert list(tries.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("ms.torch_checkpoint()", "takes a model"),
        ("ms.keras_callback(every=0)", "every is 0"),
        ("ms.torch_checkpoint(1)", "a model"),
    ],
)
def test_wrong_use_is_told(tries: Tries, code: str, told: str) -> None:
    done = tries.run(f"import mainspring as ms\ntry: {code}\nexcept ms.UsageError as wrong: print(wrong)")
    assert told in done.stdout

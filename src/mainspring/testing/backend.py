"""The conformance suite of backends: a backend is done when this passes against the real engine.

In a plug-in's tests: subclass `BackendContract` and give a fixture `backend`; the suite brings the server that runners dial.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mainspring.core.backend import Backend, Handle, Inventory, LaunchRequest, Observation, ObservedState
from mainspring.core.errors import CredentialsError, UnreachableError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.records import Cause
from mainspring.core.resources import DeviceShare, Granted
from mainspring.testing.inside import HalfTunnel
from mainspring.testing.server import RunnerServer

INSTALLATION = "inst-conformance"
TIMEOUT_S = 60.0  # only to end what hangs
SLEEP = ["sh", "-c", "echo begun; exec sleep 300"]
# as a framework does it: the first member listens where all were told, the other ones connect; each hears the other's rank
RENDEZVOUS = """
import json, os, socket, time
told = os.environ
rank, place = told["RANK"], (told["MASTER_ADDR"], int(told["MASTER_PORT"]))
peers = told["MAINSPRING_PEERS"].split(",")  # as a program of MPI's kind reads it
assert len(peers) == int(told["WORLD_SIZE"]) and peers[0] == "%s:%d" % place, peers
assert told["MAINSPRING_HOSTS"].split(",") == [one.rpartition(":")[0] for one in peers], told["MAINSPRING_HOSTS"]
assert json.loads(told["TF_CONFIG"]) == {"cluster": {"worker": peers}, "task": {"type": "worker", "index": int(rank)}}
seen = [told[name] for name in ("NODE_RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MAINSPRING_REPLICA", "MAINSPRING_WORLD_SIZE")]
assert seen == [rank, "0", "1", rank, told["WORLD_SIZE"]], seen
seen = [told["PET_" + name] for name in ("NNODES", "NODE_RANK", "NPROC_PER_NODE", "MASTER_ADDR", "MASTER_PORT")]  # torchrun's
gpus = [one for one in told.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
assert seen == [told["WORLD_SIZE"], rank, str(max(1, len(gpus))), told["MASTER_ADDR"], told["MASTER_PORT"]], seen
if rank == "0":
    door = socket.create_server(("", place[1]))
    door.settimeout(30)
    other, _ = door.accept()
else:
    until = time.time() + 30
    while True:
        try:
            other = socket.create_connection(place, timeout=5)
            break
        except OSError:
            assert time.time() < until
            time.sleep(0.05)
other.sendall(rank.encode())
print(rank, "of", told["WORLD_SIZE"], "heard", other.recv(1).decode())
"""
# takes the time that it is given, and says so as the last thing
LAST_WORDS = "trap 'sleep 0.3; echo told; exit 0' TERM; echo begun; sleep 300 & wait"
# a data set goes down beside the code, what is left in the folder of outputs goes up
COPY = """
import os
there, out = os.path.join(os.environ["MAINSPRING_INPUTS"], "data"), os.environ["MAINSPRING_OUT"]
with open(os.path.join(there, "deep", "large")) as file:
    text = file.read()
os.makedirs(os.path.join(out, "sub"))
with open(os.path.join(out, "sub", "turned"), "w") as file:
    file.write(text[::-1])
with open(os.path.join(there, "small"), "rb") as small, open(os.path.join(out, "same"), "wb") as file:
    file.write(small.read())
print(len(text))
"""
# answers a line with its capitals, an HTTP Upgrade with 101 and an echo, and BULK n with the n bytes that follow
LISTENER = """
import socket, threading
door = socket.create_server(("127.0.0.1", 0), backlog=256)
print("port", door.getsockname()[1], flush=True)
def serve(one):
    file = one.makefile("rb")
    line = file.readline()
    if line.startswith(b"BULK"):
        left = int(line.split()[1])
        while left:
            data = file.read1(min(65536, left))
            left -= len(data)
            one.sendall(data)
    elif line.startswith(b"GET"):
        while file.readline().strip(): pass
        one.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: echo\\r\\nConnection: Upgrade\\r\\n\\r\\n")
        while True:
            data = file.read1(65536)
            if not data: break
            one.sendall(data)
    else:
        one.sendall(line.upper())
    one.shutdown(socket.SHUT_RDWR)
    one.close()
while True:
    threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()
"""


class BackendContract:
    """What `core/backend.py` promises, as tests. Override `installation` if the fixture's backend has another one."""

    installation = INSTALLATION

    @pytest.fixture
    def server(self) -> Iterator[RunnerServer]:
        """The server that runners dial; an engine on other machines overrides it with an address that they reach."""
        made = RunnerServer()
        yield made
        made.close()

    def request(
        self, backend: Backend, server: RunnerServer, command: Sequence[str], name: str, granted: Granted | None = None
    ) -> LaunchRequest:
        """Return a request to run `command`."""
        attempt = AttemptId(f"att-{name}-{os.getpid()}-{time.monotonic_ns():x}")
        server.jobs[attempt] = list(command)
        return LaunchRequest(
            installation=self.installation,
            attempt=attempt,
            run=RunId(f"run-of-{attempt}"),
            replica=0,
            node=backend.inventory().nodes[0],
            granted=granted or Granted(cpu_milli=1000, memory_bytes=0),
            server_url=server.url,
            token="t" * 64,
            grace_s=1.0,
        )

    def wait_for(self, backend: Backend, handle: Handle, state: ObservedState) -> Observation:
        """Observe until `handle` is in `state`."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            seen = backend.observe([handle])[0]
            if seen.state is state:
                return seen
            time.sleep(0.05)
        raise AssertionError(f"{handle.attempt} was not seen {state} within {TIMEOUT_S:g} s")

    @contextlib.contextmanager
    def launched(self, backend: Backend, request: LaunchRequest) -> Iterator[Handle]:
        """Launch, and clean up whatever happens."""
        handle = backend.launch(request)
        try:
            yield handle
        finally:
            backend.stop(handle, 0.0)
            self.wait_for(backend, handle, ObservedState.GONE)
            backend.forget(handle)

    def test_there_is_a_node(self, backend: Backend) -> None:
        nodes = backend.inventory().nodes
        assert nodes
        assert all(node.cpu_milli > 0 and node.memory_bytes > 0 and node.used_cpu_milli == 0 for node in nodes)
        assert [node.id for node in nodes] == [node.id for node in backend.inventory().nodes], "ids are stable"
        assert backend.probe().is_ready

    def test_a_command_runs_and_its_end_is_told(self, backend: Backend, server: RunnerServer) -> None:
        request = self.request(backend, server, ["sh", "-c", "echo hello; exit 3"], "exit")
        began = time.monotonic()
        handle = backend.launch(request)
        assert time.monotonic() - began < 10
        told = server.wait(request.attempt, "ended")
        assert told.exit is not None
        assert (told.exit["cause"], told.exit["exit_code"], told.log) == (Cause.USER_ERROR, 3, b"hello\n")
        self.wait_for(backend, handle, ObservedState.GONE)
        record = backend.read_exit(handle)
        assert record is not None
        assert (record.outcome.cause, record.outcome.exit_code) == (Cause.USER_ERROR, 3)
        backend.forget(handle)
        backend.forget(handle)

    def test_launching_twice_starts_one(self, backend: Backend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "twice")
        with ThreadPoolExecutor(4) as pool:
            handles = list(pool.map(backend.launch, [request] * 4))
        with self.launched(backend, request) as handle:
            assert {(one.attempt, one.replica) for one in handles} == {(handle.attempt, handle.replica)}
            server.wait(request.attempt, "running")
            assert len([one for one in backend.owned() if one.attempt == request.attempt]) == 1
            assert server.of(request.attempt).was_started == 1
            time.sleep(0.2)  # a second runner would have printed by now
            assert server.of(request.attempt).log in (b"", b"begun\n")

    def test_stop_ends_the_process_and_is_idempotent(self, backend: Backend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "stop")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            backend.stop(handle, 1.0)
            backend.stop(handle, 1.0)
            self.wait_for(backend, handle, ObservedState.GONE)
            backend.stop(handle, 1.0)

    def test_a_stop_leaves_user_code_its_grace_for_last_words(self, backend: Backend, server: RunnerServer) -> None:
        request = replace(self.request(backend, server, ["sh", "-c", LAST_WORDS], "grace"), grace_s=30.0)
        with self.launched(backend, request) as handle:
            server.wait_said(request.attempt, b"begun\n")
            backend.stop(handle, 30.0)
            told = server.wait(request.attempt, "ended")
            assert told.log == b"begun\ntold\n"
            assert told.exit is not None
            assert told.exit["exit_code"] == 0
            self.wait_for(backend, handle, ObservedState.GONE)

    def test_stop_ends_what_ignores_sigterm_and_what_it_started(self, backend: Backend, server: RunnerServer) -> None:
        script = "trap '' TERM; (trap '' TERM; sleep 300) & echo $!; sleep 300"
        request = self.request(backend, server, ["sh", "-c", script], "stubborn")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            backend.stop(handle, 0.5)
            self.wait_for(backend, handle, ObservedState.GONE)
            assert not [one for one in backend.owned() if one.attempt == request.attempt]

    def test_observing_many_at_once_and_strangers(self, backend: Backend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "many")
        with self.launched(backend, request) as handle:
            stranger = Handle(attempt=AttemptId("att-nobody"), replica=0, data={})
            seen = backend.observe([stranger, handle] * 50)
            assert [one.state for one in seen[:2]] == [ObservedState.GONE, ObservedState.RUNNING]
            assert len(seen) == 100
            backend.stop(stranger, 0.1)
            assert backend.read_exit(stranger) is None

    def test_what_it_owns_carries_our_mark_only(self, backend: Backend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "owned")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            owned = {(one.attempt, one.replica) for one in backend.owned()}
            assert (handle.attempt, handle.replica) in owned
        assert handle.attempt not in {one.attempt for one in backend.owned()}

    def test_launches_at_once_are_all_there(self, backend: Backend, server: RunnerServer) -> None:
        requests = [self.request(backend, server, ["sh", "-c", f"exit {n}"], f"crowd{n}") for n in range(4)]
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            handles = list(pool.map(backend.launch, requests))
        assert time.monotonic() - began < 10 * len(requests)
        codes = []
        for request in requests:
            told = server.wait(request.attempt, "ended")
            codes.append(told.exit["exit_code"] if told.exit else None)
        assert codes == [0, 1, 2, 3]
        for handle in handles:
            self.wait_for(backend, handle, ObservedState.GONE)
            backend.forget(handle)

    def test_looking_changes_nothing_and_is_quick(self, backend: Backend) -> None:
        for look, limit_s in ((backend.probe, 5), (backend.inventory, 10), (backend.owned, 10)):
            began = time.monotonic()
            assert _lasting(look()) == _lasting(look())
            assert time.monotonic() - began < 2 * limit_s

    def test_an_ended_runner_is_not_begun_again_by_a_launch(self, backend: Backend, server: RunnerServer) -> None:
        request = self.request(backend, server, ["sh", "-c", "echo once"], "once")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "ended")
            self.wait_for(backend, handle, ObservedState.GONE)
            assert backend.launch(request) == handle
            self.wait_for(backend, handle, ObservedState.GONE)
            told = server.of(request.attempt)
            assert (told.was_started, told.log) == (1, b"once\n")

    def test_native_shows_the_engines_own_object(self, backend: Backend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "native")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            native = backend.native(handle)
            assert native
            assert request.token not in str(native)

    def test_a_dead_runner_is_started_again_to_report_and_nothing_else(self, backend: Backend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "drain")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            self.kill_runner(backend, handle)
            self.wait_for(backend, handle, ObservedState.GONE)
            backend.launch(request)
            told = server.wait(request.attempt, "ended")
            assert told.exit is not None
            assert told.exit["cause"] == Cause.NODE_LOST
            assert told.was_started == 1, "user code was begun a second time"
            self.wait_for(backend, handle, ObservedState.GONE)
            assert not [one for one in backend.owned() if one.attempt == request.attempt], "user code outlived its attempt"

    def test_exit_codes_and_signals_are_told_apart(self, backend: Backend, server: RunnerServer) -> None:
        ends = (("exit 137", 137), ("kill -9 $$", -9), ("kill -TERM $$", -15), ("exit 0", 0))
        requests = [
            self.request(backend, server, ["sh", "-c", f"echo last; {how}"], f"how{n}") for n, (how, _) in enumerate(ends)
        ]
        for request, (how, code) in zip(requests, ends, strict=True):
            with self.launched(backend, request):
                told = server.wait(request.attempt, "ended")
                assert told.exit is not None
                cause = Cause.USER_ERROR if code else Cause.SUCCEEDED
                assert (told.exit["cause"], told.exit["exit_code"], told.log) == (cause, code, b"last\n"), how

    def test_too_much_memory_is_told_as_such(self, backend: Backend, server: RunnerServer) -> None:
        if not backend.capabilities.limits:
            pytest.skip("This engine enforces no limits here.")
        eat = "import sys; print('eating', flush=True); b = bytearray(400 << 20); print(len(b))"
        granted = Granted(cpu_milli=1000, memory_bytes=128 << 20)
        request = self.request(backend, server, ["python3", "-c", eat], "memory", granted)
        with self.launched(backend, request):
            told = server.wait(request.attempt, "ended")
            assert told.exit is not None
            assert (told.exit["cause"], told.log.splitlines()[0]) == (Cause.OUT_OF_MEMORY, b"eating")

    def test_a_long_log_is_whole_and_in_order(self, backend: Backend, server: RunnerServer) -> None:
        lines = 20_000
        script = (
            f"import os, signal\nfor n in range({lines}): print('line', n)\nprint('end', flush=True)\nos.kill(os.getpid(), 9)"
        )
        request = self.request(backend, server, ["python3", "-c", script], "log")
        with self.launched(backend, request):
            told = server.wait(request.attempt, "ended", timeout_s=60.0)
            assert told.log == b"".join(b"line %d\n" % n for n in range(lines)) + b"end\n"

    def test_values_of_the_environment_arrive_as_they_are(self, backend: Backend, server: RunnerServer) -> None:
        values = {
            "PLAIN": "a b",
            "QUOTES": "'\"`$HOME\\n",
            "LINES": "one\n\ttwo\r\n",
            "WORDS": "été 日本 🚀",
            "BYTES": "\x01\x7f=;&|",
            "EMPTY": "",
        }
        script = f"import os; print([os.environ[name] for name in {list(values)!r}] == {list(values.values())!r})"
        request = self.request(backend, server, ["python3", "-c", script], "env")
        server.env[request.attempt] = values
        with self.launched(backend, request):
            assert server.wait(request.attempt, "ended").log == b"True\n"

    def test_files_go_down_and_up(self, backend: Backend, server: RunnerServer) -> None:
        large, small = "".join(f"{number}," for number in range(60_000)).encode(), b"\xff\x00 one\n"
        code, data = server.folder({"copy.py": COPY.encode()}), server.folder({"deep/large": large, "small": small})
        for number in range(2):  # the second time some of it may be there
            request = self.request(backend, server, ["python3", "copy.py"], f"files{number}")
            server.code[request.attempt] = code
            value = {"kind": "dataset", "digest": data, "size_bytes": len(large), "json": None, "meta": {}}
            server.args[request.attempt] = {"data": value}
            with self.launched(backend, request):
                told = server.wait(request.attempt, "ended")
                assert told.log == b"%d\n" % len(large)
                sent = {name: server.files[value["digest"]] for name, value in told.outputs.items()}
                assert sent == {"sub/turned": large[::-1], "same": small}

    def test_user_code_begins_in_a_folder_of_its_own(self, backend: Backend, server: RunnerServer) -> None:
        script = "import os; print(os.listdir('.')); open('x', 'w').close(); print(os.listdir('.'), os.getcwd() != '/')"
        for number in range(2):
            request = self.request(backend, server, ["python3", "-c", script], f"folder{number}")
            with self.launched(backend, request):
                assert server.wait(request.attempt, "ended").log == b"[]\n['x'] True\n"

    def test_user_code_sees_the_devices_it_was_given(self, backend: Backend, server: RunnerServer) -> None:
        script = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
        devices = backend.inventory().nodes[0].devices
        if not devices:
            pytest.skip("This engine has no devices here.")
        given = Granted(cpu_milli=100, memory_bytes=0, devices=(DeviceShare(index=devices[-1].index, milli=1000),))
        for granted, count in ((given, 1), (None, 0)):
            request = self.request(backend, server, ["python3", "-c", script], f"devices{count}", granted)
            with self.launched(backend, request):
                seen = server.wait(request.attempt, "ended").log.decode().strip()
                assert len([word for word in seen.split(",") if word]) == count
                if count and devices[-1].declared and not backend.capabilities.places_itself:
                    assert seen == str(devices[-1].index)

    def test_members_of_a_gang_find_each_other(self, backend: Backend, server: RunnerServer) -> None:
        first = self.request(backend, server, ["python3", "-c", RENDEZVOUS], "gang", Granted(cpu_milli=100, memory_bytes=0))
        server.worlds[first.attempt] = 2
        members = [replace(first, replica=number, world_size=2) for number in range(2)]
        with contextlib.ExitStack() as all_of_them:
            for member in members:
                all_of_them.enter_context(self.launched(backend, member))
            told = [server.wait(first.attempt, "ended", replica=number).log for number in range(2)]
        assert told == [b"0 of 2 heard 1\n", b"1 of 2 heard 0\n"]

    def test_a_port_inside_is_reached_through_the_tunnel(self, backend: Backend, server: RunnerServer) -> None:
        with self.inside(backend, server, ["python3", "-c", LISTENER], "port") as (attempt, tunnel):
            port = self.port_of(server, attempt)
            many = [tunnel.open(what="tcp", port=port) for _ in range(20)]
            for number, one in enumerate(many):
                one.write(b"hello %d\n" % number)
            assert [one.read(1024) for one in many] == [b"HELLO %d\n" % number for number in range(20)]
            large = tunnel.open(what="tcp", port=port)
            data = os.urandom(1_000_000)
            sending = threading.Thread(target=large.write, args=(b"BULK %d\n" % len(data) + data,))
            sending.start()
            assert large.read(len(data)) == data
            sending.join()
            with pytest.raises(ConnectionRefusedError, match="Nobody listens"):
                tunnel.open(what="tcp", port=1)

    def test_a_websocket_goes_through_the_tunnel_too(self, backend: Backend, server: RunnerServer) -> None:
        with self.inside(backend, server, ["python3", "-c", LISTENER], "upgrade") as (attempt, tunnel):
            one = tunnel.open(what="tcp", port=self.port_of(server, attempt))
            one.write(b"GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            assert one.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101")
            for word in (b"there", b"and back"):
                one.write(word)
                assert one.read_until(word) == word

    def test_a_shell_with_a_terminal(self, backend: Backend, server: RunnerServer) -> None:
        with self.inside(backend, server, SLEEP, "shell", {"MINE": "of the run"}) as (_, tunnel):
            shell = tunnel.open(what="pty", command=["sh"], rows=30, columns=100, term="xterm")
            shell.write(b'test -t 0 && test -t 1 && echo "$TERM, $MINE, terminal-$((40+2))"\n')
            shell.read_until(b"xterm, of the run, terminal-42")
            shell.write(b"stty size\n")
            shell.read_until(b"30 100\r\n")
            shell.write(b"pwd\n")
            shell.read_until(b"/work\r\n")
            shell.resize(41, 133)
            shell.write(b"stty size\n")
            shell.read_until(b"41 133\r\n")
            shell.write(b"exit 7\n")
            while shell.code is None:
                shell.read()
            assert shell.code == 7
            piped = tunnel.open(what="pipe", command=["sh", "-c", "test -t 0 || cat; exit 3"])
            piped.write(b"through a pipe")
            piped.end()
            assert (piped.read(1000), piped.code) == (b"through a pipe", 3)

    def test_a_server_that_begins_anew_finds_what_runs(self, backend: Backend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "reborn")
        backend.launch(request)  # and the server dies before it wrote the handle down
        reborn = self.reborn(backend)
        with self.launched(reborn, request) as handle:
            server.wait(request.attempt, "running")
            assert (handle.attempt, handle.replica) in {(one.attempt, one.replica) for one in reborn.owned()}
            assert reborn.observe([handle])[0].state is ObservedState.RUNNING
            assert server.of(request.attempt).was_started == 1

    def test_what_nobody_wrote_down_is_found_and_ended(self, backend: Backend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "orphan")
        backend.launch(request)
        server.wait(request.attempt, "running")
        reborn = self.reborn(backend)
        (found,) = [one for one in reborn.owned() if one.attempt == request.attempt]
        reborn.stop(found, 0.5)
        self.wait_for(reborn, found, ObservedState.GONE)
        reborn.forget(found)

    def test_an_engine_out_of_reach_says_so(self) -> None:
        backend = self.out_of_reach()
        if backend is None:
            pytest.skip("This engine cannot be out of reach.")
        handle = Handle(attempt=AttemptId("att-nobody"), replica=0, data={})
        for call in (backend.inventory, backend.owned, lambda: backend.stop(handle, 0.0)):
            with pytest.raises(UnreachableError):
                call()
        with contextlib.suppress(UnreachableError):
            assert [one.state for one in backend.observe([handle])] == [ObservedState.UNKNOWN]
        with contextlib.suppress(UnreachableError):
            assert not backend.probe().is_ready

    def test_credentials_that_are_wrong_are_told_as_such(self) -> None:
        backend = self.shut_out()
        if backend is None:
            pytest.skip("This engine asks for no credentials.")
        with pytest.raises(CredentialsError):
            backend.owned()

    @contextlib.contextmanager
    def inside(
        self, backend: Backend, server: RunnerServer, command: Sequence[str], name: str, env: dict[str, str] | None = None
    ) -> Iterator[tuple[AttemptId, HalfTunnel]]:
        """Run `command` and give its attempt with a tunnel into it."""
        request = self.request(backend, server, command, name)
        server.env[request.attempt] = env or {}
        with self.launched(backend, request):
            server.wait(request.attempt, "running")
            yield request.attempt, server.inside(request.attempt)

    def port_of(self, server: RunnerServer, attempt: AttemptId) -> int:
        """Return the port that `LISTENER` has printed."""
        told = server.of(attempt)
        with server.moved:
            assert server.moved.wait_for(lambda: told.log.endswith(b"\n"), TIMEOUT_S)
        return int(told.log.split()[1])

    def reborn(self, backend: Backend) -> Backend:
        """Return the backend as a server that begins anew builds it; override it wherever a backend remembers anything."""
        return backend

    def out_of_reach(self) -> Backend | None:
        """Return a backend whose engine does not answer; None for an engine that is always there."""
        return None

    def shut_out(self) -> Backend | None:
        """Return a backend whose credentials its engine refuses; None for an engine that asks for none."""
        return None

    def kill_runner(self, backend: Backend, handle: Handle) -> None:
        """Kill the runner of `handle`; engines that hide their processes override it."""
        pid = backend.native(handle)["pid"]
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)


def _lasting(seen: object) -> object:
    """Return what was seen without what others change while we look: how much of a disk is free."""
    if isinstance(seen, Inventory):
        return replace(seen, nodes=tuple(replace(node, disk_bytes=0) for node in seen.nodes))
    return seen

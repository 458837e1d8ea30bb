"""One kept connection to one host: questions to the agent there, and the tunnel by which its runners come to the server.

The ssh process is the control master of its host. When it ends it is begun again: at once where runners count on the tunnel, else
with the next question. A host that does not answer holds up nobody: while it is away every question fails with the last reason.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mainspring.backends.openssh import Login, explain, first_line, remote_python, sockets, with_host_key, words
from mainspring.core.errors import BackendError, CapacityError, CredentialsError, LaunchError, UnreachableError

HELLO_S = 15.0
ANSWER_S = 5.0
FORWARD_S = 4.0
DISCARD = 9  # a port where nobody listens
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
REFUSED_S = 30.0  # hosts shut out who comes too often with a key that they do not take
AT_ONCE = threading.BoundedSemaphore(32)  # connections that are being opened, in this process
Answer = Mapping[str, Any]

# What runs on the host before anything of ours is there: it fetches the runner's zip unless it has it, and starts its agent.
_BOOT = """
import json, os, sys
head = json.loads(sys.stdin.buffer.readline())
os.environ.setdefault("HOME", os.path.expanduser("~"))
path, size = os.path.expanduser(head["runner"]), head["size"]
try:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    has = os.path.exists(path) and os.path.getsize(path) == size
    print("\\n" + json.dumps({"hello": head["nonce"], "has": has}), flush=True)  # whatever a profile has printed
    if not has:
        draft = path + "." + str(os.getpid())
        with open(draft, "wb") as file:
            file.write(sys.stdin.buffer.read(size))
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
except OSError as wrong:
    print("\\n" + json.dumps({"hello": head["nonce"], "error": wrong.strerror or str(wrong)}), flush=True)
    sys.exit(1)
sys.path.insert(0, path)
from mainspring_runner.host import main
sys.exit(main({**head, "runner": path, "root": os.path.expanduser(head["root"])}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """What is to run on the host: the runner's zip as `runner` there, for `installation` in `root`."""

    runner: str
    data: bytes
    root: str
    installation: str


@dataclass(slots=True)
class _Link:
    """One ssh process and the questions that it has not answered."""

    process: subprocess.Popen[bytes]
    to: IO[bytes]
    control: Path
    nonce: str
    hello: Future[Answer] = field(default_factory=Future)
    waiting: dict[int, Future[Answer]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    counting: threading.Lock = field(default_factory=threading.Lock)
    number: int = 0
    may_tunnel: bool = False  # as was tried
    tunnel: tuple[str, int, str] = ("", 0, "")  # host and port here, and the path of the socket over there

    def send(self, data: bytes, limit_s: float) -> None:
        """Write to the agent. Raises OSError, TimeoutError when somebody else has been writing for too long."""
        if not self.lock.acquire(timeout=limit_s):
            raise TimeoutError
        try:
            self.to.write(data)
            self.to.flush()
        finally:
            self.lock.release()

    def post(self, do: str, asked: Mapping[str, object], limit_s: float) -> Future[Answer]:
        """Send a question. Raises OSError."""
        found: Future[Answer] = Future()
        with self.counting:
            self.number += 1
            number = self.number
            self.waiting[number] = found
        try:
            self.send(json.dumps({"id": number, "do": do, **asked}).encode() + b"\n", limit_s)
        except (OSError, ValueError) as wrong:
            self.take(number)
            raise OSError(str(wrong)) from wrong
        return found

    def take(self, number: int) -> Future[Answer] | None:
        """Return the question of that number, which nobody else gets any more."""
        with self.counting:
            return self.waiting.pop(number, None)


@dataclass(slots=True)
class Channel:
    """The connection to a host, as `user` there if one is named. Thread safe."""

    login: Login
    agent: Callable[[], Agent]
    user: str = ""
    _link: _Link | None = None
    _wrong: BackendError | None = None
    _failures: int = 0
    _not_before: float = 0.0
    _is_opening: bool = False
    _is_closed: bool = False
    _server: tuple[str, int] | None = None
    _moved: threading.Condition = field(default_factory=threading.Condition)
    _tunnelling: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, do: str, asked: Mapping[str, object], limit_s: float = ANSWER_S) -> Answer:
        """Return the agent's answer. Raises UnreachableError, CredentialsError, LaunchError, CapacityError."""
        until = time.monotonic() + limit_s
        return self.result(self.begin(do, asked, until, is_patient=True), until)

    def begin(self, do: str, asked: Mapping[str, object], until: float, *, is_patient: bool = False) -> Future[Answer]:
        """Send a question; wait no longer than `until` for a connection, and not at all for a host that is known to be away.

        `is_patient`: wait for a host that is away, too, if it is being tried just now. Raises as `ask`.
        """
        link = self._connected(until, is_patient)
        try:
            return link.post(do, asked, max(0.1, until - time.monotonic()))
        except OSError as wrong:
            raise UnreachableError(f"{self.login.host} does not answer.") from wrong

    def result(self, asked: Future[Answer], until: float) -> Answer:
        """Wait for the answer. Raises as `ask`."""
        try:
            return asked.result(max(0.05, until - time.monotonic()))
        except TimeoutError as wrong:
            raise _late(self.login.host) from wrong

    def wake(self, *, is_fresh: bool = False) -> None:
        """Begin to connect if there is no connection; `is_fresh`: also if that has failed just now."""
        with self._moved:
            if is_fresh:
                self._not_before, self._failures = 0.0, 0
                self._moved.notify_all()
            if self._link is None and not self._is_opening and time.monotonic() >= self._not_before and not self._is_closed:
                self._open_in_background()

    def tunnel(self, host: str, port: int) -> str:
        """Make the server at (host, port) reachable for runners, now and after each reconnection; return the socket's path there.

        Raises as `ask`.
        """
        with self._tunnelling:
            until = time.monotonic() + FORWARD_S
            link = self._connected(until, is_patient=True)
            with self._moved:
                self._server = (host, port)
            if link.tunnel[:2] != (host, port):
                self._forward(link, host, port)
            return link.tunnel[2]

    def try_tunnel(self) -> None:
        """Find out whether the host lets runners come through this connection; asked once for each. Raises as `ask`."""
        with self._tunnelling:
            link = self._connected(time.monotonic() + FORWARD_S, is_patient=True)
            if not link.may_tunnel:
                number, where = self._listen(link, "127.0.0.1", DISCARD)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    _told_master(link, self.login, "cancel", where)
                self._asked(link, "socket", number=number)  # which removes what is left of it

    def close(self) -> None:
        """End the connection; runners live on."""
        with self._moved:
            self._is_closed = True
            link, self._link = self._link, None
            self._moved.notify_all()
        if link is not None:
            _end(link)

    def _connected(self, until: float, is_patient: bool) -> _Link:
        self.wake()
        with self._moved:
            while self._link is None:
                left = until - time.monotonic()
                is_hopeful = self._is_opening and (is_patient or not self._failures)
                if not is_hopeful or left <= 0 or not self._moved.wait(left):
                    break
            if self._link is not None:
                return self._link
            raise self._wrong or _late(self.login.host)

    def _open_in_background(self) -> None:
        self._is_opening = True
        threading.Thread(target=self._keep_opening, daemon=True, name=f"ssh {self.login.host}").start()

    def _keep_opening(self) -> None:
        """Connect; where runners count on the tunnel, try until it is done."""
        while True:
            wrong: BackendError | None = None
            link: _Link | None = None
            try:
                with AT_ONCE:
                    link = with_host_key(self.login, self._open)
            except BackendError as refused:
                wrong = refused
            except Exception as unexpected:  # the thread's top: whoever waits is told
                wrong = UnreachableError(f"{self.login.host} cannot be reached: {unexpected}.")
            with self._moved:
                if self._is_closed:
                    self._is_opening = False
                    break
                if link is not None and link.process.poll() is None:
                    self._link, self._wrong, self._failures, self._is_opening = link, None, 0, False
                    self._moved.notify_all()
                    return
                self._wrong = wrong
                pause_s = PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
                if isinstance(wrong, CredentialsError):
                    pause_s = REFUSED_S
                self._failures += 1
                self._not_before = time.monotonic() + pause_s
                if self._server is None:
                    self._is_opening = False
                    self._moved.notify_all()
                    return
                self._moved.notify_all()
                self._moved.wait_for(lambda: self._is_closed or time.monotonic() >= self._not_before, pause_s)
        if link is not None:
            _end(link)

    def _open(self) -> _Link:
        """Start ssh and the agent, and the tunnel if there was one. Raises BackendError."""
        login, agent = self.login, self.agent()
        nonce = secrets.token_hex(6)
        login.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        control = sockets(login.folder) / nonce
        master = ("ControlMaster=yes", f"ControlPath={control}", "ControlPersist=no")
        complaints = login.folder / f"ssh-{nonce}.log"
        with complaints.open("wb") as log:
            try:
                process = subprocess.Popen(
                    [*words(login, *master), "--", login.host, remote_python(login.python, self.user)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as wrong:
                raise UnreachableError(
                    f"ssh cannot be started: {wrong.strerror}.", hint="apt-get install openssh-client"
                ) from wrong
        if process.stdin is None or process.stdout is None:
            raise UnreachableError("ssh was started without its pipes.")
        link = _Link(process=process, to=process.stdin, control=control, nonce=nonce)
        threading.Thread(
            target=self._hear, args=(link, process.stdout, complaints), daemon=True, name=f"ssh {login.host}"
        ).start()
        try:
            head = {"nonce": nonce, "size": len(agent.data), "runner": agent.runner, "root": agent.root}
            with contextlib.suppress(OSError):  # it has ended already: the hello tells why
                link.send(first_line(_BOOT) + json.dumps({**head, "installation": agent.installation}).encode() + b"\n", HELLO_S)
            hello = link.hello.result(HELLO_S)
            if hello.get("error"):
                text = f"{login.host} does not take the runner's file at {agent.runner}: {hello['error']}."
                raise LaunchError(text, hint="Name another folder there: --folder /var/tmp/mainspring")
            if not hello["has"]:
                link.send(agent.data, HELLO_S)
            if self._server is not None:
                with contextlib.suppress(LaunchError):  # the next launch tells
                    self._forward(link, *self._server)
        except (TimeoutError, OSError) as wrong:
            _end(link)
            raise UnreachableError(f"{login.host} has not answered within {HELLO_S:g} s.") from wrong
        except BackendError:
            _end(link)
            raise
        return link

    def _hear(self, link: _Link, answers: IO[bytes], complaints: Path) -> None:
        """Take the answers until ssh ends; then nobody is left waiting."""
        for line in answers:
            # what the host's own scripts print is no answer
            with contextlib.suppress(ValueError, KeyError, TypeError, InvalidStateError):
                self._take(link, json.loads(line))
        code = link.process.wait()
        for pipe in (link.to, answers):
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(OSError):
            link.control.unlink(missing_ok=True)
        told = complaints.read_text(errors="replace") if complaints.exists() else ""
        complaints.unlink(missing_ok=True)
        wrong = explain(self.login, code, told, self.user)
        with link.counting:
            left = [link.hello, *link.waiting.values()]
            link.waiting.clear()
        with self._moved:
            if self._link is link:
                self._link, self._wrong = None, wrong
                if self._server is not None and not self._is_closed and not self._is_opening:
                    self._open_in_background()
                self._moved.notify_all()
        for one in left:
            with contextlib.suppress(InvalidStateError):
                one.set_exception(wrong)

    def _take(self, link: _Link, told: dict[str, Any]) -> None:
        if "hello" in told:
            if told["hello"] == link.nonce:
                link.hello.set_result(told)
            return
        found = link.take(told["id"])
        if found is None:
            return
        if "error" in told:
            kind = CapacityError if told.get("kind") == "capacity" else LaunchError
            found.set_exception(kind(f"{self.login.host}: {told['error']}"))
        else:
            found.set_result(told["answer"])

    def _forward(self, link: _Link, host: str, port: int) -> None:
        """Lead runners to the server. Raises LaunchError, UnreachableError."""
        number, _ = self._listen(link, host, port)
        told = self._asked(link, "socket", number=number, is_open=True)
        link.tunnel = (host, port, str(told["link"]))

    def _listen(self, link: _Link, host: str, port: int) -> tuple[str, str]:
        """Let ssh listen on a socket of the host; return its number and ssh's word for it. Raises as `_forward`."""
        number = secrets.token_hex(4)
        path = self._asked(link, "socket", number=number)["path"]
        where = f"{path}:{host if ':' not in host else f'[{host}]'}:{port}"
        try:
            done = _told_master(link, self.login, "forward", where)
        except subprocess.TimeoutExpired as wrong:
            raise _late(self.login.host) from wrong
        if done.returncode != 0:
            raise LaunchError(
                f"{self.login.host} refuses the tunnel by which its runs reach this server: {done.stderr.strip()[-200:]}",
                hint="Set AllowStreamLocalForwarding and AllowTcpForwarding to yes in its /etc/ssh/sshd_config, "
                "or let it dial this server's own address: --direct",
            )
        link.may_tunnel = True
        return number, where

    def _asked(self, link: _Link, do: str, **asked: object) -> Answer:
        try:
            return self.result(link.post(do, asked, FORWARD_S), time.monotonic() + FORWARD_S)
        except OSError as wrong:
            raise UnreachableError(f"{self.login.host} does not answer.") from wrong


def _told_master(link: _Link, login: Login, act: str, where: str) -> subprocess.CompletedProcess[str]:
    """Let the connection's ssh `forward` a socket of the host to here, or `cancel` that. Raises TimeoutExpired."""
    command = ["ssh", "-S", str(link.control), "-O", act, "-R", where, login.host]
    return subprocess.run(command, capture_output=True, text=True, timeout=FORWARD_S, check=False, stdin=subprocess.DEVNULL)


def _late(host: str) -> UnreachableError:
    return UnreachableError(f"{host} has not answered in time.", details={"is_late": True})


def _end(link: _Link) -> None:
    """End the ssh process; its agent ends with it."""
    with contextlib.suppress(OSError):
        link.process.terminate()

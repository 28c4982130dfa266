"""Starts targets (and taps) in a few milliseconds: a process that has imported everything forks a child a command.

A child can be told to die, to meet the test, or to leave a trace at the named checkpoints of the load protocol.
Run as `python -m tests.target.zygote`: one JSON request a line on stdin, one JSON answer a line on stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Zygote:
    """The test's end of a zygote."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.target.zygote"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._one_at_a_time = threading.Lock()

    def start(self, *jobs: dict[str, Any]) -> list[int]:
        """Fork a child a job, each one's stdout piped into the next; their process ids."""
        return list(self._ask({"start": jobs}))

    def start_each(self, *jobs: dict[str, Any]) -> list[int]:
        """Fork a child a job, with nothing between them; their process ids."""
        return [self.start(one)[0] for one in jobs]

    def wait(self, pid: int) -> int:
        """Wait for a child; its exit code, or minus the signal that killed it."""
        return int(self._ask({"wait": pid}))

    def run(self, job: dict[str, Any]) -> int:
        """Fork a child and wait for it; its exit code, or minus the signal that killed it."""
        return self.wait(self.start(job)[0])

    def close(self) -> None:
        """End the zygote."""
        self._process.communicate()

    def _ask(self, request: Any) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with self._one_at_a_time:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            return json.loads(stdout.readline())


@contextlib.contextmanager
def zygote() -> Iterator[Zygote]:
    """A zygote for a `with` block."""
    running = Zygote()
    try:
        yield running
    finally:
        running.close()


def job(
    program: str, args: Sequence[str], *, stdin: Path | None = None, stdout: Path | None, stderr: Path, **hook: Any
) -> dict[str, Any]:
    """A request to run `tap`, `target`, or `shell`, which keeps what is written to it, as an orchestrator does.

    Without `stdin` or `stdout` the child is piped to its neighbour. Hook: `point`, `nth` (from 1), `act` (kill, meet),
    `fifo`; `trace` names a file to which each checkpoint is written with the monotonic time. `state_rows` makes a tap
    write a STATE after so many rows, `lock_timeout` a target wait so long for a lock.
    """
    files = {"stdin": stdin and str(stdin), "stdout": stdout and str(stdout), "stderr": str(stderr)}
    return {"program": program, "args": list(args), **files, "hook": hook}


def read_trace(path: Path) -> list[tuple[float, str]]:
    """(monotonic time, checkpoint) as a load passed them; empty before it starts."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(at), name) for at, _, name in (line.partition(" ") for line in lines)]


def await_passing(path: Path, name: str, nth: int, seconds: float) -> float | None:
    """Wait until a load passes a checkpoint for the n-th time; when, or None if it ended before.

    Raises TimeoutError after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        trace = read_trace(path)
        if len(found := [at for at, passed in trace if passed == name]) >= nth:
            return found[nth - 1]
        if trace and trace[-1][1] == "close.booked":
            return None
        time.sleep(0.0001)
    raise TimeoutError(f"the load does not reach {name}\n{path.with_name('log').read_text()}")


# the zygote's own side ---------------------------------------------------------------------------------------------


def _serve() -> None:
    import tap_resilient.tap  # noqa: F401
    import target_resilient.backends.duckdb
    import target_resilient.backends.postgres
    import target_resilient.target  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            status = os.waitpid(request["wait"], 0)[1]
            answer: Any = os.waitstatus_to_exitcode(status)
        else:
            answer = _fork_all(request["start"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _fork_all(jobs: list[dict[str, Any]]) -> list[int]:
    pids = []
    upstream = None
    for place, one in enumerate(jobs):
        reader, writer = os.pipe() if place < len(jobs) - 1 else (None, None)
        pids.append(_fork(one, upstream, writer, reader))
        for descriptor in (upstream, writer):
            if descriptor is not None:
                os.close(descriptor)
        upstream = reader
    return pids


def _fork(one: dict[str, Any], stdin: int | None, stdout: int | None, other: int | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        if other is not None:
            os.close(other)
        _redirect(one, stdin, stdout)
        _set_hook(one["hook"])
        code = _main(one)
    except BaseException as error:  # a child must never return into the zygote's loop
        os.write(2, f"zygote child: {error!r}\n".encode())
        code = 1
    os._exit(code)


def _redirect(one: dict[str, Any], stdin: int | None, stdout: int | None) -> None:
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.dup2(stdin if stdin is not None else os.open(one["stdin"] or os.devnull, os.O_RDONLY), 0)
    os.dup2(stdout if stdout is not None else os.open(one["stdout"], append, 0o600), 1)
    os.dup2(os.open(one["stderr"], append, 0o600), 2)
    os.closerange(3, 256)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 the zygote's own may hold requests that it has read ahead
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115


def _main(one: dict[str, Any]) -> int:
    from tap_resilient import tap
    from target_resilient import target

    sys.argv = [one["program"], *one["args"]]
    main: Callable[[], None] = {"tap": tap.main, "target": target.main, "shell": _keep}[one["program"]]
    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        return int(ended.code or 0)
    return 0


def _keep() -> None:
    while data := os.read(0, 1 << 16):
        os.write(1, data)


def _set_hook(hook: dict[str, Any]) -> None:
    from tap_resilient import state
    from target_resilient import checkpoints
    from target_resilient.backends import postgres

    state.ROWS_BETWEEN = hook.get("state_rows", state.ROWS_BETWEEN)
    postgres.LOCK_TIMEOUT = hook.get("lock_timeout", postgres.LOCK_TIMEOUT)
    passed = 0
    trace = os.open(hook["trace"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if "trace" in hook else None

    def at(name: str) -> None:
        nonlocal passed
        if trace is not None:
            os.write(trace, f"{time.monotonic():.6f} {name}\n".encode())
        if name != hook.get("point"):
            return
        passed += 1
        if passed == hook["nth"]:
            _act(hook)

    checkpoints.hook = at if hook else None


def _act(hook: dict[str, Any]) -> None:
    if hook["act"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    with Path(hook["fifo"]).open("rb") as fifo:  # the test opens it once we are here, and closes it to let us go on
        fifo.read()


if __name__ == "__main__":
    _serve()

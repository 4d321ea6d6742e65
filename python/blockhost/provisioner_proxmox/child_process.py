"""Runs a command for a web application: with a time limit, a largest answer, and no child left.

Whoever waits here is a thread that a person waits for.  So every wait has an end and every
output a size, and what did not go as it should is told, not raised (but for a command that
cannot be started: OSError).
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from typing import Any, NamedTuple

# Bytes of stderr, where progress and log lines go: only the end is of use.
STDERR_KEPT = 16 << 10
LONGEST_LINE = 500


class Outcome(NamedTuple):
    """How the process ended; `problem` is set where it did not end by itself."""

    code: int
    stdout: bytes
    stderr: bytes
    problem: str | None


class Limits(NamedTuple):
    """How long a command may take, and how much it may say."""

    # Seconds.
    seconds: float
    # Seconds that it then has to end by itself, asked by SIGTERM.
    grace: float
    # Bytes; more than this is no answer any more.
    largest: int
    # Whether children that outlive a command which ended by itself are ended, too.
    ends_children: bool = False


def one_line(text: str) -> str:
    """`text` fit for one line of a page or a log: no control characters, not endless."""
    # Cut first: of an endless text only the beginning is looked at.
    text = text[: 20 * LONGEST_LINE]
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 1] + "…"


def lines(output: bytes) -> list[str]:
    """The lines of an output that are not empty, each fit to be shown."""
    shown = (one_line(line) for line in output.decode("utf-8", "replace").splitlines())
    return [line for line in shown if line]


def run(argv: list[str], text: bytes, limits: Limits) -> Outcome:
    """Runs `argv` with `text` on stdin.

    `communicate` would do, but for output without end, and for a grandchild that outlives
    the command with its pipes open.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        # A group of its own, so that its children can be ended with it.
        start_new_session=True,
    )
    with process:
        try:
            return _converse(process, text, limits)
        except BaseException:
            _kill_group(process)
            raise


def _converse(process: subprocess.Popen[bytes], text: bytes, limits: Limits) -> Outcome:
    stdout = stderr = b""
    problem = None
    exited_at = None
    deadline = time.monotonic() + limits.seconds
    pending = memoryview(text)
    with selectors.DefaultSelector() as selector:
        for pipe, event in (
            (process.stdin, selectors.EVENT_WRITE),
            (process.stdout, selectors.EVENT_READ),
            (process.stderr, selectors.EVENT_READ),
        ):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, event)

        def close(pipe: Any) -> None:
            selector.unregister(pipe)
            pipe.close()

        while not (exited := _exited(process)) or selector.get_map():
            now = time.monotonic()
            if exited:
                # What it wrote is in the pipes already; whoever else holds them is not waited for.
                exited_at = exited_at or now
                if now > exited_at + 1.0:
                    break
            elif problem is not None:
                if now > deadline:
                    break
            elif len(stdout) > limits.largest or now > deadline:
                problem = f"took longer than {limits.seconds:g} seconds and was ended"
                if len(stdout) > limits.largest:
                    problem = "answered without end and was ended"
                # Asked first, and still read from: it may log while it undoes its work. Only the
                # command itself: it knows how its children are to be ended.
                process.send_signal(signal.SIGTERM)
                deadline = now + limits.grace
            if not selector.get_map():
                time.sleep(0.01)
                continue
            # A tick, because the end of the process itself is nothing that can be selected.
            for key, _ in selector.select(0.1):
                try:
                    if key.fileobj is process.stdin:
                        pending = pending[os.write(key.fd, pending[:65536]) :]
                        if not pending:
                            close(key.fileobj)
                        continue
                    chunk = os.read(key.fd, 65536)
                except BlockingIOError:
                    continue
                except OSError:  # EPIPE: it answers without having read all
                    close(key.fileobj)
                    continue
                if not chunk:
                    close(key.fileobj)
                elif key.fileobj is process.stderr:
                    stderr = (stderr + chunk)[-STDERR_KEPT:]
                elif len(stdout) <= limits.largest:
                    stdout += chunk
    if problem is None and len(stdout) > limits.largest:
        problem = "answered without end"
    if problem is not None or limits.ends_children:
        _kill_group(process)
    return Outcome(process.wait(), stdout, stderr, problem)


def _exited(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; it is not reaped yet, so that its number stays its own."""
    try:
        return bool(os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))
    except ChildProcessError:
        return True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the command and the children it left; to be called before it is reaped."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass

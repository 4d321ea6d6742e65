"""The one door from the wizard to `blockhost-provisioner-setup`, and so to the host.

What the setup steps do is decided and done by that command; here it is only started,
fed, waited for and understood.  It runs as root from a thread of a web application, so:

*   the session goes in by stdin, never by argv, where every user of the host could read it;
*   every wait has an end, every output a size, and whatever goes wrong becomes one line
    for a person instead of an exception: a wizard that shows a traceback at midnight
    helps nobody, and the installer's thread has no one to catch it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import selectors
import signal
import subprocess
import time
from typing import Any, NamedTuple

COMMAND = "blockhost-provisioner-setup"

# Seconds.  Detection holds up a page, so it is short; the template is a download, an
# installation inside an image and an import.
LIMITS = {"detect-resources": 15.0, "template": 1800.0}
LIMIT = 300.0

# After the limit the command is asked to end, and has this long to undo what it has begun.
# Detection has nothing to undo, and a person waits for it.
GRACES = {"detect-resources": 1.0}
GRACE = 10.0

# Bytes.  The answer is one line; more than this is no answer any more.
LARGEST_ANSWER = 1 << 20
# Of stderr, where progress and log lines go, only the end is of use.
STDERR_KEPT = 16 << 10
LONGEST_REASON = 500
DEEPEST = 64

log = logging.getLogger(__name__)


class _Outcome(NamedTuple):
    """How the process ended; `problem` is set where it did not end by itself."""

    code: int
    stdout: bytes
    stderr: bytes
    problem: str | None


def plain_copy(value: Any, depth: int = 0) -> Any:
    """A deep copy that is certain to be JSON for every reader; ValueError where none is.

    A copy, because the caller's dictionary belongs to a session that other threads change.
    Stricter than json.dumps: no NaN, no keys but text, no lone surrogates, no depth that
    a parser elsewhere refuses.
    """
    if depth > DEEPEST:
        raise ValueError("is nested too deeply")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value.bit_length() > 1024:  # Python itself refuses to write a really long one
            raise ValueError("is too large a number")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("is not a finite number")
        return float(value)
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("is not Unicode text") from None
        return str(value)
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("has keys that are not text")
        return {plain_copy(key): plain_copy(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_copy(item, depth + 1) for item in value]
    raise ValueError(f"is of type {type(value).__name__}")


def session_config(config: Any) -> tuple[dict[str, Any], str | None]:
    """What of the session goes to a step: a copy of all that is JSON, or the reason why not.

    Keys of other pages that are not JSON are left out and named in the log: no step of ours
    needs them.  Our own part has to be whole.
    """
    if not isinstance(config, dict):
        return {}, "the installer handed over no configuration"
    if not isinstance(config.get("provisioner"), dict):
        return {}, "the Proxmox page of the wizard has not been filled in"
    copy: dict[str, Any] = {}
    # list(): another thread may add a key meanwhile.
    for key, value in list(config.items()):
        try:
            copy[plain_copy(key) if isinstance(key, str) else _no_text(key)] = plain_copy(value)
        except (ValueError, RuntimeError) as why:  # RuntimeError: changed while it was copied
            if key == "provisioner":
                return {}, f"the settings of the Proxmox page cannot be handed on: a value {why}"
            log.warning("session key %.80r is not handed to the setup steps: it %s", key, why)
    return copy, None


def _no_text(key: Any) -> str:
    raise ValueError(f"is named by a {type(key).__name__}")


def ask(step: str, config: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Runs one step with `config` (plain values only) on stdin: its answer, and the error if any.

    Never raises.
    """
    limit = LIMITS.get(step, LIMIT)
    try:
        outcome = _run(
            [COMMAND, step], json.dumps(config).encode("ascii"), limit, GRACES.get(step, GRACE)
        )
    except FileNotFoundError:
        return {}, f"{COMMAND} is not installed"
    except OSError as error:
        return {}, f"{COMMAND} cannot be started: {error.strerror or error}"
    for line in outcome.stderr.decode("utf-8", "replace").splitlines():
        log.info("%s: %s", step, one_line(line))
    if outcome.problem:
        return {}, _with_last_words(f"{COMMAND} {step} {outcome.problem}", outcome.stderr)
    return _understood(step, outcome)


def run_step(step: str, config: Any) -> tuple[bool, str | None]:
    """A finalization step in the installer's terms: `(True, None)` or `(False, "reason")`."""
    copy, problem = session_config(config)
    if problem is None:
        _, problem = ask(step, copy)
    return (True, None) if problem is None else (False, problem)


def one_line(text: str) -> str:
    """`text` fit for one line of a page or a log: no control characters, not endless."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"


def _understood(step: str, outcome: _Outcome) -> tuple[dict[str, Any], str | None]:
    """Reads `{"ok": …, "error": …}`; only ok *and* exit code 0 together are success."""
    name = f"{COMMAND} {step}"
    try:
        answer = json.loads(outcome.stdout.decode("utf-8"))
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        if outcome.code < 0:
            what = f"{name} was ended by signal {-outcome.code}"
        elif outcome.code != 0:
            what = f"{name} failed with exit code {outcome.code}"
        else:
            what = f"{name} gave no answer that can be read"
        return {}, _with_last_words(what, outcome.stderr)
    if not answer["ok"]:
        error = answer.get("error")
        said = one_line(error) if isinstance(error, str) else ""
        return answer, said or _with_last_words(
            f"{name} failed and did not say why", outcome.stderr
        )
    if outcome.code != 0:
        return {}, _with_last_words(
            f"{name} reported success, but ended with code {outcome.code}", outcome.stderr
        )
    return answer, None


def _with_last_words(what: str, stderr: bytes) -> str:
    lines = [one_line(line) for line in stderr.decode("utf-8", "replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return one_line(f"{what}: {last}" if last else what)


def _run(argv: list[str], text: bytes, limit: float, grace: float) -> _Outcome:
    """Runs `argv` with `text` on stdin, at most `limit` seconds and LARGEST_ANSWER bytes.

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
            return _converse(process, text, limit, grace)
        except BaseException:
            _kill_group(process)
            raise


def _converse(
    process: subprocess.Popen[bytes], text: bytes, limit: float, grace: float
) -> _Outcome:
    stdout = stderr = b""
    problem = None
    exited_at = None
    deadline = time.monotonic() + limit
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
            elif len(stdout) > LARGEST_ANSWER or now > deadline:
                problem = f"took longer than {limit:g} seconds and was ended"
                if len(stdout) > LARGEST_ANSWER:
                    problem = "answered without end and was ended"
                # Asked first, and still read from: it may log while it undoes its work. Only the
                # command itself: it knows how its children are to be ended.
                process.send_signal(signal.SIGTERM)
                deadline = now + grace
            if not selector.get_map():
                time.sleep(0.05)
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
                elif len(stdout) <= LARGEST_ANSWER:
                    stdout += chunk
    if problem is None and len(stdout) > LARGEST_ANSWER:
        problem = "answered without end"
    if problem is not None:
        _kill_group(process)
    return _Outcome(process.wait(), stdout, stderr, problem)


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

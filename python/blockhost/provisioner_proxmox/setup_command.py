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
from typing import Any

from . import child_process
from .child_process import Limits, Outcome, one_line

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
DEEPEST = 64

log = logging.getLogger(__name__)


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
        outcome = child_process.run(
            [COMMAND, step],
            json.dumps(config).encode("ascii"),
            Limits(limit, GRACES.get(step, GRACE), LARGEST_ANSWER),
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


def _understood(step: str, outcome: Outcome) -> tuple[dict[str, Any], str | None]:
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
    said = child_process.lines(stderr)
    return one_line(f"{what}: {said[-1]}" if said else what)

"""What our commands tell about this host, for the admin page: asked side by side, seldom, bounded.

The page has no door of its own to the node or to our files: everything comes from commands,
run as the user that the panel runs as.  Many tabs that are reloaded must not become load on
the node, and a node that hangs must not hang the panel, so:

*   all commands run at the same time, each with a limit, ended with its children after it;
*   one run at a time in a process: who comes meanwhile waits for it and gets its results;
*   the results are shown for some seconds more;
*   a command that the kernel does not let die (its disk hangs) is not started again.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from . import child_process
from .child_process import Limits, one_line

# How far ahead the page looks, in days.
EXPIRING_DAYS = 7
AUDIT_LINES = 15

# Seconds for which results are shown again.
KEPT = 10.0
# Seconds: that a command has to end after its limit, and that its end may take beyond that.
GRACE = 0.5
MARGIN = 1.0
# Bytes: ten thousand VMs that expire, or as many findings.
LARGEST_ANSWER = 8 << 20
# Lines of stderr that are shown.
REMARKS = 5

log = logging.getLogger(__name__)


class Question(NamedTuple):
    """A command that prints JSON."""

    argv: tuple[str, ...]
    # Seconds.
    limit: float
    # Exit codes with which its output is an answer.
    codes: frozenset[int] = frozenset({0})


class Answer(NamedTuple):
    """What a command printed, or why there is nothing to show."""

    value: Any = None
    problem: str | None = None
    # What it said on stderr, in single lines: a list that could not be read is empty, and only this tells.
    remarks: tuple[str, ...] = ()


class Report(NamedTuple):
    """All answers, by the name of the question."""

    at: datetime
    answers: Mapping[str, Answer]


QUESTIONS: dict[str, Question] = {
    # It gives root agent and API 10 s, and then says which of them did not answer.
    "doctor": Question(
        ("blockhost-provisioner-doctor", "--format", "json"), 12.0, frozenset({0, 1, 2})
    ),
    "capacity": Question(("blockhost-provisioner-capacity", "--format", "json"), 12.0),
    "expiring": Question(
        (
            "blockhost-vm-list",
            *("--expiring", str(EXPIRING_DAYS), "--sort", "expires", "--format", "json"),
            *("--columns", "name,status,ip,wallet,expires,protected"),
        ),
        5.0,
    ),
    "audit": Question(
        ("blockhost-vm-audit", "--limit", str(AUDIT_LINES), "--format", "json"), 5.0
    ),
}


class Reporter:
    """Asks the questions when somebody wants to know, and not more often than it must."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_asking = False
        self._latest: Report | None = None
        self._kept_until = 0.0
        # Threads whose command did not end in spite of everything.
        self._stuck: dict[str, threading.Thread] = {}

    def report(self) -> Report:
        """The answers, some seconds old at most; takes as long as the slowest command may. Never raises."""
        patience = _longest() + 2 * MARGIN
        with self._changed:
            waited = self._is_asking
            if not self._changed.wait_for(lambda: not self._is_asking, patience):
                return _failed("the commands of another request have not ended; reload the page")
            # Who waited takes what the other got, as old as it may be by now.
            if self._latest and (waited or time.monotonic() < self._kept_until):
                return self._latest
            self._is_asking = True
        latest = None
        try:
            latest = self._ask()
            return latest
        finally:
            with self._changed:
                self._is_asking = False
                self._latest = latest
                self._kept_until = time.monotonic() + KEPT
                self._changed.notify_all()

    def _ask(self) -> Report:
        answers: dict[str, Answer] = {}
        threads = {}
        for name, question in QUESTIONS.items():
            if (old := self._stuck.get(name)) and old.is_alive():
                problem = f"{question.argv[0]} of an earlier request has not ended"
                answers[name] = Answer(problem=problem)
                continue
            thread = threading.Thread(
                target=_answer_into, args=(answers, name, question), daemon=True, name=f"admin {name}"
            )
            try:
                thread.start()
            except RuntimeError as error:
                answers[name] = Answer(problem=f"{question.argv[0]} cannot be started: {error}")
                continue
            threads[name] = thread
        deadline = time.monotonic() + _longest() + MARGIN
        for name, thread in threads.items():
            thread.join(max(0.0, deadline - time.monotonic()))
        self._stuck = {name: thread for name, thread in threads.items() if thread.is_alive()} | {
            name: thread for name, thread in self._stuck.items() if thread.is_alive()
        }
        missing = {
            name: Answer(problem=f"{question.argv[0]} did not end when it was killed")
            for name, question in QUESTIONS.items()
        }
        # A copy: a thread that ends late writes into the other.
        return Report(datetime.now(timezone.utc), {**missing, **dict(answers)})


def ask(question: Question) -> Answer:
    """Runs one command. Never raises."""
    name = question.argv[0]
    limits = Limits(question.limit, GRACE, LARGEST_ANSWER, ends_children=True)
    try:
        outcome = child_process.run(list(question.argv), b"", limits)
    except FileNotFoundError:
        return Answer(problem=f"{name} is not installed")
    except OSError as error:
        return Answer(problem=one_line(f"{name} cannot be started: {error.strerror or error}"))
    remarks = tuple(child_process.lines(outcome.stderr)[-REMARKS:])
    for line in remarks:
        log.info("%s: %s", name, line)
    if outcome.problem:
        return Answer(problem=f"{name} {outcome.problem}", remarks=remarks)
    if outcome.code not in question.codes:
        how = f"was ended by signal {-outcome.code}"
        if outcome.code > 0:
            how = f"failed with exit code {outcome.code}"
        return Answer(problem=f"{name} {how}", remarks=remarks)
    try:
        value = json.loads(
            outcome.stdout.decode("utf-8"), parse_int=_integer, parse_constant=_no_number
        )
    except (ValueError, RecursionError, MemoryError):
        return Answer(problem=f"{name} gave no answer that can be read", remarks=remarks)
    return Answer(value, remarks=remarks)


def _answer_into(answers: dict[str, Answer], name: str, question: Question) -> None:
    try:
        answers[name] = ask(question)
    except Exception as error:  # nobody would hear of it
        log.exception("%s", question.argv[0])
        problem = one_line(f"{question.argv[0]} cannot be asked: {type(error).__name__}")
        answers[name] = Answer(problem=problem)


def _integer(text: str) -> int | None:
    """A number that Python reads in no time; nothing of ours has more digits."""
    return int(text) if len(text) < 20 else None


def _no_number(text: str) -> None:
    """NaN and the infinities, which are no JSON."""
    raise ValueError(text)


def _longest() -> float:
    return max(question.limit for question in QUESTIONS.values()) + GRACE


def _failed(problem: str) -> Report:
    return Report(
        datetime.now(timezone.utc), {name: Answer(problem=problem) for name in QUESTIONS}
    )

"""A Snakemake logger plugin with short output: the plan, a line per finished job, progress of long jobs, and failures.

    PYTHONPATH=plugins snakemake --logger brief --cores 2 results/digits-dit/fid.json > /dev/null

Stages print their progress to stdout, where lines of several jobs mix. The plugin reads the progress from their logs
instead. It prints to stderr, the same lines in a terminal as elsewhere. Snakemake's own log file still has all
messages. Snakemake finds a plugin by its folder's name.
"""

import re
import sys
import threading
import time
from logging import WARNING, LogRecord
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

_SECONDS_OF_SILENCE = 20
_LINES_OF_A_LOG = 10
_SHORT = {"seed": "seed", "scale": "w", "steps": "n"}  # goes before a wildcard's value, as in the paths
# A stage's line of progress: its name, what part of its work, if it has several, and how far.
_PROGRESS = re.compile(r"^\S+(?: \((\w+)\))?: \S+ \((\d+%)\)", re.M)
_WORTH_SAYING = re.compile("Nothing to be done|Will exit|Terminating|Complete log|Elapsed time")
_SAID_WITH_THE_JOB = re.compile(
    "RuleException:\nCalledProcessError|Exiting because a job|WorkflowError:\nAt least one job"
)


class LogHandler(LogHandlerBase):
    """Prints the messages of Snakemake that matter to a new user."""

    writes_to_stream, writes_to_file = True, False
    has_filter = has_formatter = needs_rulegraph = False

    def __post_init__(self) -> None:
        self._running: dict[int, LogRecord] = {}
        self._done, self._total, self._width = 0, 0, 0
        self._last_message = ""
        self._spoke, self._closed = threading.Event(), False
        threading.Thread(target=self._report_progress, daemon=True).start()

    def emit(self, record: LogRecord) -> None:
        """Print a message, or store its contents for later."""
        try:
            self._tell(record)
        except Exception:
            self.handleError(record)  # an uncaught error would end Snakemake's message thread, without a report

    def close(self) -> None:
        """End the thread that reports progress."""
        self._closed = True
        self._spoke.set()
        super().close()

    def _tell(self, record: LogRecord) -> None:
        event, text = getattr(record, "event", None), record.getMessage()
        if event == LogEvent.RUN_INFO:
            self._total, self._width = record.stats["total"], max(map(len, record.stats))
            self._print(text)
        elif event == LogEvent.JOB_INFO:
            self._running[record.jobid] = record
        elif event == LogEvent.JOB_FINISHED:
            self._done += 1
            head = f"[{self._done:{len(str(self._total))}}/{self._total}]"
            self._print(self._line(head, self._running.pop(record.job_id), record.created))
        elif event == LogEvent.JOB_ERROR:
            head = "stopped" if self._last_message.startswith("Terminating") else "FAILED"  # Ctrl-C also ends jobs
            self._print(self._line(head, self._running.pop(record.jobid), record.created))
            for log in record.log:
                lines = [line for line in _read(log).splitlines() if not _PROGRESS.match(line)]
                self._print(*(f"        {line}" for line in [*lines[-_LINES_OF_A_LOG:], f"log: {log}"]))
        elif _WORTH_SAYING.match(text) or (record.levelno >= WARNING and not _SAID_WITH_THE_JOB.match(text)):
            if text != self._last_message:
                self._print(text)
            self._last_message = text

    def _line(self, head: str, job: LogRecord, now: float) -> str:
        """Format a job in columns: `head`, rule, wildcards, and minutes:seconds from its start to `now`."""
        wildcards = " ".join(_SHORT.get(name, "") + value for name, value in job.wildcards.items())
        minutes, seconds = divmod(round(now - job.created), 60)
        return f"{head:7} {job.rule_name:{self._width}} {wildcards:36} {minutes:2}:{seconds:02}"

    def _print(self, *lines: str) -> None:
        print(*lines, sep="\n", file=sys.stderr, flush=True)
        self._spoke.set()

    def _report_progress(self) -> None:
        """Print the progress of running jobs whenever nothing was printed for a while."""
        while not self._closed:
            if self._spoke.wait(_SECONDS_OF_SILENCE):
                self._spoke.clear()
                continue
            with self.lock:
                for job in self._running.values():
                    reached = _PROGRESS.findall("".join(map(_read, job.log)))
                    how_far = " ".join(filter(None, reached[-1])) if reached else ""
                    self._print(f"{self._line('', job, time.time())}  {how_far}".rstrip())


def _read(log: str) -> str:
    return Path(log).read_text(errors="replace") if Path(log).is_file() else ""

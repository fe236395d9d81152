"""Prefect's settings for this project; import it before prefect."""

from __future__ import annotations

import logging
import os

from pipeline.command import mistakes

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # what is built here is nobody else's business
os.environ.setdefault("PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL", "WARNING")  # a line a batch says nothing new
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")  # a busy machine starts it slowly

# A run that failed with a line, and tasks of a run that is stopped: Prefect would add a traceback to each.
NOT_WORTH_A_TRACEBACK = {"FailedRun", "ShutdownExecutorError", "PoolClosedError"}


def _is_worth_its_lines(record: logging.LogRecord) -> bool:
    if not record.exc_info:
        return True
    error = record.exc_info[1]
    return not (isinstance(error, mistakes()) or type(error).__name__ in NOT_WORTH_A_TRACEBACK)


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_is_worth_its_lines)

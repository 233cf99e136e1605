"""Handing a job over to a Ray cluster by its dashboard, and following it to its end."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neurodial.control.errors import BadInput, Unavailable


def submit(address: str, entrypoint: str, working_dir: Path | None, say: Callable[[str], None]) -> int:
    """Submits a command, prints what it prints, and stops it on Ctrl-C.

    Args:
        address: of the cluster's dashboard.
        entrypoint: the command, run on a machine of the cluster.
        working_dir: folder that is sent along, in which the command runs.
        say: is told the job's name.

    Returns:
        The command's exit code.

    Raises:
        BadInput: if the folder is none.
        Unavailable: if the cluster does not answer.
    """
    from ray.job_submission import JobSubmissionClient

    if working_dir is not None and not working_dir.is_dir():
        raise BadInput(f"--working-dir {working_dir}: not a folder")
    environment: dict[str, Any] = {"working_dir": str(working_dir)} if working_dir is not None else {}
    try:
        client = JobSubmissionClient(address)
        job: str = client.submit_job(entrypoint=entrypoint, runtime_env=environment)
    except (ConnectionError, RuntimeError) as error:
        raise Unavailable(
            f"{address}: the job was not taken ({' '.join(str(error).split())[:300]})",
            hint="is that the cluster's dashboard, and does it want Ray's token (RAY_AUTH_MODE=token)?",
        ) from error
    say(f"{job}: {entrypoint}")
    try:
        asyncio.run(_follow(client, job))
        info = client.get_job_info(job)
    except KeyboardInterrupt:
        client.stop_job(job)
        raise
    except (ConnectionError, RuntimeError) as error:
        raise Unavailable(
            f"{address} does not answer any more ({' '.join(str(error).split())[:300]})",
            hint=f"ray job logs --address {address} --follow {job}",
        ) from error
    if info.status.name == "SUCCEEDED":
        return 0
    say(f"{job}: {info.status.name.lower()} ({info.message or 'no reason given'})")
    return int(info.driver_exit_code or 1)


async def _follow(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)

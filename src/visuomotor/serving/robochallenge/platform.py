"""Jobs of the platform, in both generations of its interface; the second lists the runs of a submission."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from visuomotor.serving.robochallenge.connection import Connection, PlatformError, Refused, short

__all__ = ["ENDED", "Job", "Platform"]

ENDED = ("finished", "cancelled", "failed")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One rollout that was asked for. `prompt`, `task` and `robot` (its kind) are known in the second generation."""

    id: str
    status: str
    robot_id: str | None = None
    prompt: str | None = None
    task: str | None = None
    robot: str | None = None

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "Job":
        """An entry of a list of jobs or of runs; PlatformError without a name or a status."""
        name, status = entry.get("job_id", entry.get("run_id")), entry.get("status")
        if not isinstance(name, str | int) or not isinstance(status, str):
            raise PlatformError(f"Expected a job with job_id (or run_id) and status; the platform sent {short(entry)}.")
        device = entry.get("device")
        robot_id = device.get("robot_id") if isinstance(device, dict) else None
        texts = (entry.get(key) for key in ("prompt", "task_name", "robotTag"))
        prompt, task, robot = (text if isinstance(text, str) and text else None for text in texts)
        robot_id = None if robot_id is None else str(robot_id)
        return cls(id=str(name), status=status, robot_id=robot_id, prompt=prompt, task=task, robot=robot)


class Platform:
    """Jobs as one user sees them.

    Raises (every method):
        PlatformError: no usable answer after all attempts. Refused: the answer is no.
    """

    def __init__(self, connection: Connection, generation: int = 1) -> None:
        self.connection, self.generation = connection, generation

    def jobs(self, collection: str) -> list[Job]:
        """Jobs of a collection; in the second generation, runs of a submission."""
        name = quote(collection, safe="")
        if self.generation == 1:
            answer = self.connection.get_json(f"/job_collections/{name}")
            listed = answer.get("jobs") if isinstance(answer, dict) else None
        else:
            answer = self.connection.get_json(f"/v2/job_collections/submission/{name}/runs")
            listed = answer.get("runs") if isinstance(answer, dict) else answer
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise PlatformError(f"Expected the jobs of {collection!r}; the platform sent {short(answer)}.")
        return [Job.parse(entry) for entry in listed]

    def job(self, job_id: str) -> Job:
        """A job as it stands now."""
        return Job.parse({"job_id": job_id, **self.connection.get_mapping(f"/jobs/{quote(job_id, safe='')}")})

    def start(self, job_id: str) -> None:
        """Start a job that is ready. One that was started by an attempt whose answer got lost is no error."""
        try:
            self.connection.post("/jobs/update", {"job_id": job_id, "action": "start"})
        except Refused:
            if self.job(job_id).status != "running":
                raise

"""A server's overhead, how it treats many clients, and what bad ones do to it.

    python benchmarks/serving.py [PART ...] [--requests N] [--clients N] [--malformed N] [--memory-requests N]

The server runs in a process of its own with a policy that costs a fixed time for each batch, so that what is measured
is the server and not a model. Parts, all of them unless some are named:

overhead  a client's round trip over loopback with two 224 px images against the policy's `infer` called directly, in
          turns; `cpu_ms` is the CPU time of both processes, which other work on the computer changes less
many      one client, then many at once, with 20 ms for a batch of any size
attack    what one client notices of malformed frames, clients killed in a request, and one that reads nothing
restart   a client goes on after the server was replaced
memory    resident memory of the server over many requests

The last line is JSON.
"""

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from visuomotor_client import connect, openpi
from websockets.asyncio.client import connect as open_connection

from visuomotor.contract import ActionChunk, Observation
from visuomotor.embodiment import Camera, Component, Embodiment
from visuomotor.serving.config import Limits, ServeConfig
from visuomotor.serving.server import PolicyServer
from visuomotor.session import Session
from visuomotor.versions import commit

SIDE, HORIZON, BATCH_SECONDS = 224, 50, 0.02
JOINTS = Component(name="joints", dims=tuple("abcdefg"), kind="joint", unit="rad", low=(-9.0,) * 7, high=(9.0,) * 7)
ROBOT = Embodiment(
    name="arm",
    control_hz=20.0,
    cameras=tuple(Camera(name=name, role=name, height=SIDE, width=SIDE) for name in ("scene", "wrist")),
    state=(JOINTS,),
    action=(JOINTS,),
)


class FixedCost:
    """A policy that takes `seconds` for a batch of any size."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.embodiment = seconds, ROBOT

    def infer(
        self,
        observations: Sequence[Observation],
        sessions: Sequence[Session | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[ActionChunk]:
        if self.seconds:
            time.sleep(self.seconds)
        actions = np.zeros((HORIZON, 7), np.float32)
        return [ActionChunk(actions=actions, embodiment=ROBOT) for _ in observations]


def message(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8) for name in ("scene", "wrist")}
    return {"images": images, "state": np.zeros(7, np.float32), "prompt": "open the drawer"}


@contextmanager
def server(seconds: float, port: int = 0, **settings: Any) -> Iterator[tuple[str, int]]:
    """A server in a process of its own; yields its address and process id."""
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(theirs, seconds, port, settings))
    process.start()
    try:
        if not mine.poll(60):
            raise SystemExit("The server did not start within a minute.")
        yield mine.recv(), process.pid or 0
    finally:
        mine.send("stop")
        process.join(30)


def _run(pipe: Connection, seconds: float, port: int, settings: dict[str, Any]) -> None:
    async def run() -> None:
        logging.getLogger("visuomotor.serving").setLevel("ERROR")  # thousands of refusals are what is wanted here
        config = ServeConfig(openpi_port=port, vla_eval_port=None, **settings)
        async with PolicyServer(FixedCost(seconds), config) as running:
            pipe.send(running.addresses["openpi"])
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    asyncio.run(run())


def overhead(requests: int) -> dict[str, Any]:
    """Milliseconds of a round trip beyond the bare policy, and those of the server alone as it reports them."""
    policy, sent = FixedCost(0.0), message()
    observation = Observation(images=sent["images"], state=sent["state"], instruction=sent["prompt"])
    trips, bare = [], []
    with server(0.0) as (address, pid), connect(address) as client:
        for _ in range(50):
            client.infer(sent)
        used = _cpu_seconds(pid) + time.process_time()
        for _ in range(requests):
            started = time.perf_counter()
            client.infer(sent)
            between = time.perf_counter()
            policy.infer([observation])
            trips.append(between - started)
            bare.append(time.perf_counter() - between)
        used = _cpu_seconds(pid) + time.process_time() - used
    found = 1e3 * (np.array(trips) - np.median(bare))
    return {f"p{q}_ms": round(float(np.percentile(found, q)), 3) for q in (50, 95, 99)} | {
        "cpu_ms": round(1e3 * used / requests, 3), "requests": requests,
    }  # fmt: skip


async def _ask(address: str, seconds: float, sent: bytes) -> list[float]:
    """Latencies of one client that asks for `seconds`."""
    latencies: list[float] = []
    async with open_connection(address, compression=None, max_size=None) as connection:
        await connection.recv()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            await connection.send(sent)
            answer = await connection.recv()
            if isinstance(answer, str):
                raise SystemExit(f"The server sent an error: {answer}")
            latencies.append(time.perf_counter() - started)
    return latencies


def many(clients: int, seconds: float = 5.0) -> dict[str, Any]:
    """Requests per second of one client and of many, and how equally they are served."""
    sent = openpi.pack(message())

    async def run(address: str, count: int) -> list[list[float]]:
        return list(await asyncio.gather(*(_ask(address, seconds, sent) for _ in range(count))))

    with server(BATCH_SECONDS) as (address, _):
        alone, together = asyncio.run(run(address, 1)), asyncio.run(run(address, clients))
    counts = [len(client) for client in together]
    latencies = 1e3 * np.concatenate(together)
    return {
        "clients": clients,
        "one_per_s": round(len(alone[0]) / seconds, 1),
        "all_per_s": round(sum(counts) / seconds, 1),
        "ratio": round(sum(counts) / len(alone[0]), 2),
        "fewest_to_most": round(min(counts) / max(counts), 3),
        "p50_ms": round(float(np.percentile(latencies, 50)), 1),
        "p99_ms": round(float(np.percentile(latencies, 99)), 1),
    }


def attack(malformed: int) -> dict[str, Any]:
    """What a well-behaved client notices of others: its latencies in quiet and under attack; errors must not occur."""
    sent, rng = openpi.pack(message()), np.random.default_rng(0)

    async def quiet(address: str) -> np.ndarray:
        return np.array(await _ask(address, 2.0, sent))

    async def spoil(address: str) -> tuple[int, float]:
        """Malformed frames, each of which must be answered by a text; then one that is well-formed."""
        started, refused = time.perf_counter(), 0
        async with open_connection(address, compression=None, max_size=None) as connection:
            await connection.recv()
            for _ in range(malformed):
                frame = bytearray(sent[:400] if rng.random() < 0.5 else rng.bytes(int(rng.integers(1, 400))))
                for place in rng.integers(0, len(frame), 3):
                    frame[place] = rng.integers(256)
                await connection.send(bytes(frame))
                refused += isinstance(await connection.recv(), str)
            await connection.send(sent)
            if isinstance(await connection.recv(), str):
                raise SystemExit("A connection did not go on after malformed frames.")
        return refused, time.perf_counter() - started

    async def kill(address: str) -> None:
        for _ in range(50):
            connection = await open_connection(address, compression=None)
            await connection.send(sent)
            connection.transport.abort()
            await asyncio.sleep(0.02)

    async def read_nothing(address: str) -> None:
        async with open_connection(address, compression=None) as connection:
            connection.transport.pause_reading()
            for _ in range(200):
                await connection.send(sent)
                await asyncio.sleep(0.01)

    async def run(address: str) -> dict[str, Any]:
        before = await quiet(address)
        attacks = [asyncio.create_task(work(address)) for work in (spoil, kill, read_nothing)]
        during = np.array(await _ask(address, 4.0, sent))
        refused, took = (await asyncio.gather(*attacks))[0]
        return {
            "malformed": malformed, "refused": refused, "malformed_seconds": round(took, 1),
            "quiet_p50_ms": round(1e3 * float(np.median(before)), 2),
            "attacked_p50_ms": round(1e3 * float(np.median(during)), 2),
            "attacked_p99_ms": round(1e3 * float(np.percentile(during, 99)), 2),
        }  # fmt: skip

    with server(0.002, limits=Limits(send_seconds=1.0)) as (address, _):
        found = asyncio.run(run(address))
    if found["refused"] != malformed:
        raise SystemExit(f"{malformed - found['refused']} malformed frames were not refused.")
    return found


def restart() -> dict[str, Any]:
    """Seconds from the end of one server to the first answer of the next on the same port."""
    with server(0.0) as (address, _):
        client = connect(address)
        client.infer(message())
    ended = time.perf_counter()
    with server(0.0, port=int(address.rsplit(":", 1)[1])):
        client.infer(message())
        return {"seconds_to_next_answer": round(time.perf_counter() - ended, 2)}


def memory(requests: int) -> dict[str, Any]:
    """Resident megabytes of the server after a tenth of the requests and after all, with clients coming and going."""
    sent, sizes = openpi.pack(message()), []

    async def run(address: str, pid: int) -> None:
        for _ in range(10):
            await asyncio.gather(*(_some(address, sent, requests // 40) for _ in range(4)))
            sizes.append(_resident_mb(pid))

    with server(0.0) as (address, pid):
        asyncio.run(run(address, pid))
    return {"requests": requests, "after_a_tenth_mb": sizes[0], "after_all_mb": sizes[-1], "largest_mb": max(sizes)}


async def _some(address: str, sent: bytes, count: int) -> None:
    async with open_connection(address, compression=None, max_size=None) as connection:
        await connection.recv()
        for _ in range(count):
            await connection.send(sent)
            await connection.recv()


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "overhead": lambda options: overhead(options.requests),
    "many": lambda options: many(options.clients),
    "attack": lambda options: attack(options.malformed),
    "restart": lambda options: restart(),
    "memory": lambda options: memory(options.memory_requests),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS])
    for name, value in (("requests", 2000), ("clients", 32), ("malformed", 10_000), ("memory-requests", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    found: dict[str, Any] = {"benchmark": "serving", "cpu": platform.machine(), "cores": len(os.sched_getaffinity(0))}
    for name in options.parts or PARTS:
        found[name] = PARTS[name](options)
        print(f"{name:<9} {found[name]}", flush=True)
    print(json.dumps({**found, "load": os.getloadavg()[0], "commit": commit()}))


if __name__ == "__main__":
    main()

"""How fast a policy is rolled out, and where the time goes: `python benchmarks/evaluation.py [--episodes 24]`.

Rolls a nano DM0 with random weights (or `--checkpoint DIR`) out, first with one environment a worker and then with
several in lockstep, whose looks share one policy call; then with every episode filmed. Parity first: all runs must
give the same outcomes. Random weights hardly succeed, so nearly all episodes run to `--max-steps`: the worst case.
The last line is one JSON document; times of workers are summed over processes.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visuomotor.contract import Component, Embodiment, EvalPlan
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.data.statistics import Statistics, VectorStatistics, vector_statistics
from visuomotor.evaluation import rollout
from visuomotor.evaluation.provenance import code_version
from visuomotor.evaluation.results import RECORDS_FILE, read_records
from visuomotor.models import make_config, make_model
from visuomotor.policy import Policy, load_policy
from visuomotor.simulation.interface import make_environment, make_scenarios
from visuomotor.text.tokenizer import TextTokenizer


def random_policy(environment: str, seed: int = 0) -> Policy:
    """A nano DM0 with random weights for the environment's embodiment; statistics spread over the limits."""
    env = make_environment(environment)
    embodiment: Embodiment = env.embodiment
    env.close()
    rng = np.random.default_rng(seed)

    def spread(components: tuple[Component, ...]) -> VectorStatistics:
        low = np.concatenate([c.low or (-1.0,) * len(c.dims) for c in components])
        high = np.concatenate([c.high or (1.0,) * len(c.dims) for c in components])
        return vector_statistics([rng.uniform(a, b, 1000) for a, b in zip(low, high, strict=True)])

    statistics = Statistics(state=spread(embodiment.state), action=spread(embodiment.action))
    words = [s.instruction or s.task for s in make_scenarios(environment, "train", 50, 0)]
    tokenizer = TextTokenizer.train(words, 1024)
    config = ProcessorConfig(image_roles=embodiment.roles)
    processor = Processor(config, [embodiment], [statistics], tokenizer)
    torch.manual_seed(seed)
    sizes = {"horizon": config.horizon, "action_dim": config.action_width, "state_dim": config.state_width}
    ids = {"newline_id": tokenizer.newline_id, "pad_id": tokenizer.pad_id}
    return Policy(make_model("dm0", make_config("dm0", "nano", **sizes, **ids)), processor)


def measure(policy: Policy, plan: EvalPlan, out: Path, *, workers: int, lockstep: int, videos: int) -> dict[str, Any]:
    """One evaluation: episodes per second, and seconds in policy, rendering and simulation."""
    rollout.LOCKSTEP = lockstep
    began = time.perf_counter()
    rollout.evaluate(policy, plan, out, workers=workers, videos=videos, controls=())
    wall = time.perf_counter() - began
    records = read_records(out / RECORDS_FILE)
    policy_seconds = sum(s / n for r in records for s, n in zip(r.latency, r.batch, strict=True))
    steps = sum(r.steps for r in records)
    render, simulation = sum(r.render_seconds for r in records), sum(r.simulation_seconds for r in records)
    looks = sum(len(r.latency) for r in records)
    return {
        "wall_s": round(wall, 2),
        "episodes_per_s": round(len(records) / wall, 3),
        "steps_per_s": round(steps / wall, 1),
        "policy_s": round(policy_seconds, 2),
        "policy_share": round(policy_seconds / wall, 3),
        "render_s": round(render, 2),
        "render_share": round(render / wall / workers, 3),
        "simulation_s": round(simulation, 2),
        "simulation_share": round(simulation / wall / workers, 3),
        "ms_per_look_policy": round(1000 * policy_seconds / looks, 2),
        "ms_per_look_render": round(1000 * render / looks, 2),
        "ms_per_step_simulation": round(1000 * simulation / steps, 2),
        "mean_batch": round(float(np.mean([n for r in records for n in r.batch])), 2),
        "outcomes": [(r.index, r.success, r.steps) for r in sorted(records, key=lambda r: r.index)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", default="tabletop")
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--max-steps", type=int, default=80)
    parser.add_argument("--execute", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the policy")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    policy = random_policy(arguments.environment) if arguments.checkpoint is None else load_policy(arguments.checkpoint)
    plan = EvalPlan(
        environment=arguments.environment,
        episodes=arguments.episodes,
        max_steps=arguments.max_steps,
        execute=arguments.execute,
    )
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        measure(policy, replace(plan, episodes=1), Path(folder) / "warm", workers=1, lockstep=1, videos=0)
        for name, lockstep, videos in (("single", 1, 0), ("lockstep", 8, 0), ("filmed", 8, arguments.episodes)):
            out = Path(folder) / name
            runs[name] = measure(policy, plan, out, workers=arguments.workers, lockstep=lockstep, videos=videos)
            print(name, {key: value for key, value in runs[name].items() if key != "outcomes"}, flush=True)
    outcomes = [run.pop("outcomes") for run in runs.values()]
    # One environment at a time batches differently: rounding may differ, filming may not change anything.
    same = {"filmed": outcomes[1] == outcomes[2], "single": outcomes[0] == outcomes[1]}
    if not same["filmed"]:
        raise SystemExit("Filming changed the outcomes.")
    ratio = runs["lockstep"]["episodes_per_s"] / runs["single"]["episodes_per_s"]
    facts = {"cores": os.cpu_count(), "torch": torch.__version__, "code": code_version(), **vars(arguments)}
    print(json.dumps({"benchmark": "evaluation", "ratio": round(ratio, 2), "same": same, **runs, **facts}, default=str))


if __name__ == "__main__":
    main()

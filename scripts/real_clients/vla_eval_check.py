"""Reads the results of a vla-eval run: python vla_eval_check.py FOLDER --episodes N [--live], in its environment."""

import argparse
import json
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--episodes", type=int, required=True)
parser.add_argument("--live", action="store_true")
options = parser.parse_args()

(path,) = options.folder.glob("*_aggregate.json")
result = json.loads(path.read_text())
assert result["num_episodes_total"] == options.episodes, result
assert not result.get("num_errors"), result
assert not result.get("partial"), result
assert result["mean_success"] == 1.0, result
print(f"vla-eval {options.folder.name}: {options.episodes} episodes, no error")
if options.live:
    logs = (options.folder.parent / f"{options.folder.name}.log").read_text()
    done = [line for line in logs.splitlines() if "Episode done" in line]
    assert len(done) == options.episodes, logs
    assert "Server error" not in logs, logs
    print("\n".join(line[line.index("Episode done") :] for line in done))

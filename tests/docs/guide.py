"""Guides that run: their bash and python blocks are carried out in order; `text` blocks are for reading."""

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.M | re.S)


def follow(guide: Path, root: Path) -> Path:
    """Run a guide's blocks in `root`; one that begins with `# file: NAME` is written instead."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(root / "cache")}
    for language, text in (match.groups() for match in BLOCK.finditer(guide.read_text())):
        if text.startswith("# file: "):
            (root / text.partition("\n")[0].removeprefix("# file: ")).write_text(text)
            continue
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return root

"""Follow a guide: run its bash and python blocks in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.M | re.S)


def follow(guide: Path, root: Path) -> None:
    """Run the blocks in `root`; those that begin with "# file: NAME" are saved, `text` blocks are for reading."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(root / "cache")}
    for language, text in BLOCK.findall(guide.read_text()):
        if text.startswith("# file: "):
            (root / text.partition("\n")[0].removeprefix("# file: ")).write_text(text)
            continue
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"

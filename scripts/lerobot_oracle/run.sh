#!/bin/bash
# Let the real lerobot 0.4.4 read a data set that we wrote, and read one that it wrote.
#
#   scripts/lerobot_oracle/run.sh [FOLDER]     (default: $TMPDIR/lerobot_oracle; a virtual environment of its own, ~2 GB)
#
# Needs Python 3.11, Debian's ffmpeg (torchcodec loads its libraries) and this project's own environment in .venv.
# lerobot 0.4.4 pins an older torch, hence --no-deps and the versions below; newer lerobot needs Python 3.12.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=${1:-${TMPDIR:-/tmp}/lerobot_oracle}
ours=${VISUOMOTOR_PYTHON:-$root/.venv/bin/python}
theirs=$folder/venv/bin/python

command -v ffmpeg >/dev/null || { echo "ffmpeg is missing; install it with: apt-get install ffmpeg" >&2; exit 2; }
mkdir -p "$folder"
if [ ! -e "$folder/venv/complete" ]; then
    "${PYTHON:-python3.11}" -m venv "$folder/venv"
    "$theirs" -m pip install --quiet torch==2.13.0 "datasets<4.2" "huggingface-hub<0.36" "accelerate<2" "av<16" \
        "draccus==0.10.0" jsonlines deepdiff einops "opencv-python-headless<4.13" imageio termcolor pyarrow pandas \
        safetensors gymnasium "packaging<26"
    "$theirs" -m pip install --quiet --no-deps lerobot==0.4.4 torchvision==0.28.0 torchcodec==0.13.0
    touch "$folder/venv/complete"
fi

export HF_HUB_OFFLINE=1 HF_HOME=$folder/hf
work=$folder/data
rm -rf "$work" && mkdir -p "$work"
"$ours" "$here/ours.py" write "$work"
"$theirs" "$here/check.py" "$work"
"$ours" "$here/ours.py" read "$work"

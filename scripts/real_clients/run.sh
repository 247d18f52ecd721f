#!/usr/bin/env bash
# Let the field's own clients, as published, talk to a server of ours: openpi-client, and vla-eval's harness on a toy
# benchmark (sync, live, two shards side by side).
#
#   scripts/real_clients/run.sh [FOLDER]     (default: $TMPDIR/real_clients; two virtual environments of about 100 MB)
#
# Needs this project's own environment in .venv (or VISUOMOTOR_PYTHON). openpi-client declares numpy<2 and needs
# typing_extensions without saying so, hence environments of their own.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=${1:-${TMPDIR:-/tmp}/real_clients}
ours=${VISUOMOTOR_PYTHON:-$root/.venv/bin/python}
mkdir -p "$folder"

environment() { # NAME PACKAGES...: a virtual environment, made once
    local venv=$folder/$1
    [ -e "$venv/complete" ] && return
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"
    touch "$venv/complete"
}
environment openpi openpi-client==0.1.2 typing_extensions "numpy<2"
environment vla_eval vla-eval==0.8.0

out=$(mktemp -d "$folder/run.XXXXXX")
export VISUOMOTOR_API_KEYS=
serve() { # NAME OPTIONS...: start a server on free ports; sets openpi_address, vla_eval_address
    "$ours" -m visuomotor.cli.main serve "$root/src/visuomotor/checkpoints/tabletop-nano" --openpi-port 0 \
        --vla-eval-port 0 --seed 0 "${@:2}" >"$out/$1.txt" 2>"$out/$1.log" &
    server=$!
    for _ in $(seq 600); do
        grep -q '^ready' "$out/$1.txt" && break
        kill -0 $server 2>/dev/null || { cat "$out/$1.log" >&2; exit 1; }
        sleep 0.1
    done
    openpi_address=$(awk '$1 == "openpi" { print $2 }' "$out/$1.txt")
    vla_eval_address=$(awk '$1 == "vla-eval" { print $2 }' "$out/$1.txt")
}
stop() { # the server ends in good order on SIGTERM
    kill -TERM $server
    wait $server
}
trap 'kill $server 2>/dev/null || true' EXIT

serve plain
"$folder/openpi/bin/python" "$here/openpi_check.py" "$openpi_address"

harness() { # NAME OPTIONS...: one run of vla-eval
    PYTHONPATH=$here "$folder/vla_eval/bin/vla-eval" run --no-docker --yes --server-url "$vla_eval_address" \
        --output-dir "$out/$1" "${@:2}" >"$out/$1.log" 2>&1 || { cat "$out/$1.log" >&2; return 1; }
}
check() { "$folder/vla_eval/bin/python" "$here/vla_eval_check.py" "$@"; }

harness sync --config "$here/sync.yaml"
check "$out/sync" --episodes 4
harness live --config "$here/live.yaml"
check "$out/live" --episodes 2 --live
harness shards --config "$here/sync.yaml" --eval-id shards --shard-id 0 --num-shards 2 &
first=$!
harness shards --config "$here/sync.yaml" --eval-id shards --shard-id 1 --num-shards 2
wait $first
"$folder/vla_eval/bin/vla-eval" export "$out/shards/recording-shards.sqlite" >"$out/export.log" 2>&1
check "$out/shards" --episodes 4
stop

VISUOMOTOR_API_KEYS=0123456789abcdef0123456789abcdef serve keyed
"$folder/openpi/bin/python" "$here/openpi_check.py" "$openpi_address" 0123456789abcdef0123456789abcdef
vla_eval_address=${vla_eval_address/\/\//\/\/robot:0123456789abcdef0123456789abcdef@}
harness keyed --config "$here/sync.yaml"
check "$out/keyed" --episodes 4
stop
rm -rf "$out"
echo "real clients: openpi-client and vla-eval (sync, live, two shards, with an API key) all ran"

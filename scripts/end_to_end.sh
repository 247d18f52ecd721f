#!/usr/bin/env bash
# A short end-to-end job through the installed command line: demonstrations, data set, training, resume, one rollout,
# report. It checks that these verbs work and that their output is there, not that the policy is any good.
set -euo pipefail
cd "$(dirname "$0")/.."
export MUJOCO_GL=${MUJOCO_GL:-egl}
visuomotor=$PWD/.venv/bin/visuomotor
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT

"$visuomotor" info
"$visuomotor" model dm0 --size base
"$visuomotor" collect tabletop --out "$run/data" --episodes 6 --action-noise 0.2
"$visuomotor" collect tabletop --out "$run/scenes" --scenes 100
"$visuomotor" data info "$run/data"
"$visuomotor" data stats "$run/data"
"$visuomotor" data doctor "$run/data"
"$visuomotor" data view "$run/data" --out "$run/episode.png"
"$visuomotor" data view "$run/data" --out "$run/episode.mp4"
short=()
for stage in see train act; do short+=(--stages.$stage.batch_size 8 --stages.$stage.steps 2 --stages.$stage.minutes null); done
every=(--stages.train.checkpoint_every 1 --stages.train.validate_every 2)
"$visuomotor" train tabletop-nano --data "$run/data" --out "$run/train" "${short[@]}" "${every[@]}"
"$visuomotor" train tabletop-nano --data "$run/data" --out "$run/train" --resume "${short[@]}" "${every[@]}"
checkpoint=$run/train/checkpoints/$(cat "$run/train/last")
"$visuomotor" eval "$checkpoint" --out "$run/eval" --episodes 1 --control-episodes 1 --max-steps 24 --think subtask box \
    --data "$run/data"
"$visuomotor" report "$run"
test -s "$run/report.html"
demo=("$visuomotor" demo --from-scratch --out "$run/demo" --demonstrations 6 --scenes 50 --episodes 1 --control-episodes 1)
"${demo[@]}" "${short[@]}"
"${demo[@]}" "${short[@]}" | tee "$run/second"
grep -q "train reused" "$run/second"
"$visuomotor" collect metaworld --out "$run/metaworld" --episodes 2 --option tasks pair:drawer-open
"$visuomotor" data doctor "$run/metaworld"
echo "end to end: everything ran"

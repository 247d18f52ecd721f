#!/usr/bin/env bash
# Set up everything that the project needs in .venv: GL libraries (through apt when allowed), pinned dependencies, the
# package itself. Safe to repeat; quick when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
stamp=.venv/.visuomotor-setup
wanted=$(cat pyproject.toml packages/*/pyproject.toml constraints.txt scripts/setup.sh | sha256sum | cut -d' ' -f1)

say() { printf '\033[1m%s\033[0m\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

apt_install() { # PACKAGES...: install them, or print the exact command and stop
    local install="apt-get update -q && apt-get install -y --no-install-recommends $*"
    if command -v apt-get >/dev/null && as_root true; then
        say "Installing $* with apt"
        as_root bash -c "export DEBIAN_FRONTEND=noninteractive; $install" >.setup.log 2>&1 && { rm -f .setup.log; return 0; }
        tail -n 5 .setup.log >&2
    fi
    echo "These system packages are missing and could not be installed from here. Please run:" >&2
    echo "    sudo sh -c '$install'" >&2
    echo "and then repeat the command." >&2
    exit 1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "visuomotor needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1). Set PYTHON=/path/to/python3.11." >&2
    exit 1
}

missing=()
libraries=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p)
grep -q 'libEGL\.so\.1' <<<"$libraries" || missing+=(libegl1)
grep -q 'libGL\.so\.1' <<<"$libraries" || missing+=(libgl1)
grep -q 'libGLU\.so\.1' <<<"$libraries" || missing+=(libglu1-mesa)
grep -q 'libOSMesa\.so' <<<"$libraries" || missing+=(libosmesa6)
compgen -G '/usr/lib/*/dri/swrast_dri.so' >/dev/null || compgen -G '/usr/lib/*/libgallium*.so' >/dev/null || missing+=(libgl1-mesa-dri)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"

if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
say "Installing the Python dependencies into .venv (about two minutes the first time)"
pip() { .venv/bin/python -m pip --disable-pip-version-check -q "$@"; }
# torch first and by itself: TORCH_INDEX chooses the build (for example the CPU wheels' index).
if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
    pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
fi
pip install -c constraints.txt -e packages/visuomotor-client -e '.[metaworld,dev]'
echo "$wanted" >"$stamp"

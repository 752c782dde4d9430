#!/bin/sh
# Looks for what pip cannot install: Python 3.11 with venv, and what libp2p compiles against on Linux
# (a C compiler, Python.h, gmp.h). Prints the one line that installs what is missing.
set -u

python=${PYTHON:-python3}
missing=

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "moshgrid needs Python 3.11 or newer as '$python', and found: $("$python" --version 2>&1 || true)" >&2
    echo "    sudo apt-get install python3 python3-venv python3-dev gcc libgmp-dev" >&2
    exit 1
fi

"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"

if [ "$(uname -s)" = Linux ]; then
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    compiler=${CC:-}
    command -v "${compiler:-none}" >/dev/null 2>&1 || compiler=
    if [ -z "$compiler" ]; then
        for candidate in cc gcc clang; do
            if command -v "$candidate" >/dev/null 2>&1; then compiler=$candidate; break; fi
        done
    fi
    if [ -z "$compiler" ]; then
        missing="$missing gcc libc6-dev"
        found_gmp=$(find /usr/include /usr/local/include -name gmp.h 2>/dev/null | head -n 1)
        [ -n "$found_gmp" ] || missing="$missing libgmp-dev"
    else
        echo '#include <stdio.h>' | "$compiler" -E -x c - >/dev/null 2>&1 || missing="$missing libc6-dev"
        echo '#include <gmp.h>' | "$compiler" -E -x c - >/dev/null 2>&1 || missing="$missing libgmp-dev"
    fi
    [ -f "$include/Python.h" ] || missing="$missing python3-dev"
fi

if [ -n "$missing" ]; then
    echo "Missing on this computer, and needed before pip starts. This line installs it:" >&2
    echo "    sudo apt-get install$missing" >&2
    exit 1
fi

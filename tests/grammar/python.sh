#!/usr/bin/env bash
# The Python of .venv (made by ./test) if it is there, else the system's.
top=$(cd "$(dirname "$0")/../.." && pwd)
[ -x "$top/.venv/bin/python" ] && exec "$top/.venv/bin/python" "$@"
exec python3 "$@"

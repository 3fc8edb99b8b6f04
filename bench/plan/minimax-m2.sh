#!/usr/bin/env bash
# MiniMax-M2: batch sizes 1 and 256. See plan.sh, or --help.
. "$(dirname "$0")/plan.sh"
parse_flags nano-minimax-m2 MiniMax-M2 "$@"
run_plan 1,8,32 1:1 256:1,16,32,128,256

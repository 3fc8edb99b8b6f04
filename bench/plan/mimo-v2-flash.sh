#!/usr/bin/env bash
# MiMo-V2-Flash: batch sizes 1, 32 and 128. See plan.sh, or --help.
. "$(dirname "$0")/plan.sh"
parse_flags nano-mimo-v2-flash MiMo-V2-Flash "$@"
run_plan 1,8,32 1:1 32:1,16,32 128:1,16,32,128

#!/usr/bin/env bash
# Four ranks on two hosts. Needs on every host: Open MPI, minimo and its libminimo_mpi.so at the same paths, the
# checkpoint at the same path, and ssh without a password from the first host to the others.
#   deploy/mpi/run.sh HOSTFILE MODEL [flags of minimo serve]
set -euo pipefail
hostfile=$1 model=$2
shift 2
ranks=$(awk '!/^[ \t]*#/ && match($0, /[ \t]slots=[0-9]+/) { n += substr($0, RSTART + 7, RLENGTH - 7) }
             END { print n + 0 }' "$hostfile")
[ "$ranks" -gt 0 ] || { echo "$hostfile: no line says how many ranks its host runs (node1 slots=2)" >&2; exit 1; }
# minimo launch adds what a lost rank needs: mpirun must give the leader time to answer its clients.
exec minimo launch -n "$ranks" --hostfile "$hostfile" --restart -- serve --model "$model" --host 0.0.0.0 "$@"

#!/usr/bin/env bash
# Four ranks on two hosts. Needs on every host: Open MPI, minimo and its libminimo_mpi.so at the same paths, the
# checkpoint at the same path, and ssh without a password from the first host to the others.
#   deploy/mpi/run.sh HOSTFILE MODEL [flags of minimo serve]
set -euo pipefail
hostfile=$1 model=$2
shift 2
# minimo launch adds what a lost rank needs: mpirun must give the leader time to answer its clients.
exec minimo launch -n "$(awk '!/^#/ && /slots=/ { split($2, s, "="); n += s[2] } END { print n }' "$hostfile")" \
  --hostfile "$hostfile" --restart -- serve --model "$model" --host 0.0.0.0 "$@"

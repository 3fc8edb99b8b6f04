#!/usr/bin/env bash
# Two hosts simulated by network namespaces joined by a virtual cable: mpirun starts COMMAND with RANKS ranks on each,
# which can only talk through TCP over that cable. Needs root. Exits 77 (skipped) where namespaces cannot be made.
#   two_hosts.sh RANKS_A_HOST COMMAND...
#   two_hosts.sh RANKS_A_HOST --first COMMAND...   COMMAND alone, on the first host, with an mpirun that reaches both in
#                                                  $MPIRUN, their hostfile in $HOSTS, the cable's end in $CABLE
set -euo pipefail
ranks=$1
shift
id=$$
a=minimo-$id-a b=minimo-$id-b
work=$(mktemp -d)
cleanup() {
  ip netns pids "$b" 2>/dev/null | xargs -r kill -9 2>/dev/null || true  # mpirun's, if the cable was cut
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
if ! command -v ip >/dev/null || ! ip netns add "$a" 2>"$work/why" || ! ip netns add "$b" 2>"$work/why" ||
   ! ip netns exec "$a" true 2>"$work/why"; then
  echo "no network namespaces here: $(cat "$work/why" 2>/dev/null || echo 'ip is not installed')"
  exit 77
fi
ip link add "va$id" netns "$a" type veth peer name "vb$id" netns "$b"
ip -n "$a" addr add 10.77.0.1/24 dev "va$id"
ip -n "$b" addr add 10.77.0.2/24 dev "vb$id"
for ns in "$a:va$id" "$b:vb$id"; do
  ip -n "${ns%%:*}" link set lo up
  ip -n "${ns%%:*}" link set "${ns##*:}" up
done
# What mpirun uses instead of ssh.
cat > "$work/agent" <<AGENT
#!/bin/sh
shift
exec ip netns exec $b unshare --uts sh -c "hostname host-b; \$*"
AGENT
chmod +x "$work/agent"
printf '10.77.0.1 slots=%s\n10.77.0.2 slots=%s\n' "$ranks" "$ranks" > "$work/hosts"
cat > "$work/mpirun" <<MPIRUN
#!/bin/sh
exec mpirun --mca plm_rsh_agent "$work/agent" --mca btl self,vader,tcp --mca btl_vader_single_copy_mechanism none \
  --mca pml ob1 --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 "\$@"
MPIRUN
chmod +x "$work/mpirun"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
if [ "$1" = --first ]; then
  shift
  export MPIRUN="$work/mpirun" HOSTS="$work/hosts" CABLE="va$id"
else
  set -- "$work/mpirun" --hostfile "$work/hosts" -n $((2 * ranks)) --bind-to none "$@"
fi
ip netns exec "$a" unshare --uts sh -c 'hostname host-a; exec "$@"' sh "$@"

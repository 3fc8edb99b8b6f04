#!/usr/bin/env bash
# The whole benchmark plan on the nano models, seconds each: every run succeeds and the report is there.
#   plan_test.sh MINIMO SCRIPT RUNS
set -euo pipefail
export MINIMO=$1
script=$2 runs=$3
"$MINIMO" --help | grep -q '^  serve ' || { echo "this build has no minimo serve" >&2; exit 77; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
port=$((20000 + RANDOM % 20000))
"$script" --quick --out "$out" --port "$port" > "$out/log" 2>&1 || { cat "$out/log"; exit 1; }
results=$(ls "$out"/serve-*.json | wc -l)
[ "$results" -eq "$runs" ] || { echo "$results results, expected $runs"; cat "$out/log"; exit 1; }
for result in "$out"/serve-*.json; do
  grep -q '"failed":0,' "$result" || { echo "$result has failures"; exit 1; }
done
grep -q 'What is 1+1? Answer briefly.  ->  .*2' "$out/log" || { echo "the sanity check did not answer 2"; cat "$out/log"; exit 1; }
grep -q 'id="throughput-' "$out/report.html"
grep -q 'trn2.48xlarge' "$out/report.html"

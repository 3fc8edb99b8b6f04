#!/usr/bin/env bash
# The program on one GPU: the server with the nano models, `minimo logits`, faults, the original plan's load on M2's
# shapes. Run by tools/gpu_check's parts of these names in a packed folder, with OUT for logs and results.
#   serve_check.sh serve|logits|faults|plan      plan: KV=fp8 for an FP8 cache, LOADS="32:64 .." in flight:prompts,
#                                                SERVE="--more of-the-server's-options"
set -u
port=$((9000 + RANDOM % 900))
url=http://127.0.0.1:$port
server=
status=0

start() {  # LOG ARGUMENTS...
  local log=$1
  shift
  ./minimo serve --backend cuda --port "$port" "$@" > "$OUT/$log" 2>&1 &
  server=$!
  for _ in $(seq 1200); do
    curl -s -o /dev/null "$url/health" && return 0
    kill -0 $server 2> /dev/null || break
    sleep 0.05
  done
  return 1
}
stop() {
  kill $server 2> /dev/null
  timeout 5 tail --pid=$server -f /dev/null || { echo "the server does not end"; kill -9 $server; status=1; }
}
refusal() { timeout 10 ./minimo serve --backend cuda "$@" 2>&1 | tail -1; }
must() { "$@" || { echo "FAILED: $*"; status=1; }; }

serve() {
  for model in nano-minimax-m2 nano-mimo-v2-flash; do
    must start "$model.log" --model models/$model
    must timeout 30 python3 serve_client.py same "$url"
    stop
    # In bf16 a batch rounds otherwise than a token alone; in float32 both give the same text.
    must start "$model-f32.log" --model models/$model --dtype f32
    must timeout 30 python3 serve_client.py together "$url"
    stop
  done
}

# The command on the device against itself on the CPU.
logits() {
  local model backend ids
  ids=$(seq -s, 5 7 1400)
  for model in nano-minimax-m2 nano-mimo-v2-flash; do
    for backend in cpu cuda; do
      must timeout 20 ./minimo logits models/$model --backend $backend --dtype f32 --ids "$ids" --out "$OUT/$backend.st"
    done
    must python3 serve_client.py logits "$OUT/cuda.st" "$OUT/cpu.st"
  done
  rm -f "$OUT"/{cpu,cuda}.st
}

faults() {
  MINIMO_CUDA_FAULT=step:60 must start fault.log --model models/nano-minimax-m2
  must timeout 30 python3 serve_client.py fault "$url"
  stop
  echo "no device: $(CUDA_VISIBLE_DEVICES='' refusal --model models/nano-minimax-m2)"
  echo "too large: $(refusal --model shapes/minimax-m2 --load-format dummy)"
  echo "another generation: $(MINIMO_CUDA_FAULT=generation:120 refusal --model models/nano-minimax-m2)"
  for ((n = 1; n < 60; n += n < 23 ? 1 + n / 4 : 1)); do  # allocations at start, until there are no more
    if MINIMO_CUDA_FAULT=allocation:$n start allocation.log --model models/nano-mimo-v2-flash; then
      echo "allocation $n: serves"  # and is the first while it does
      must timeout 30 python3 serve_client.py fault "$url"
      stop
      break
    fi
    wait $server
    [ $? = 1 ] && grep -q "out of memory" "$OUT/allocation.log" || { echo "allocation $n: not refused"; status=1; }
  done
}

plan() {
  local begin=$(date +%s%N)
  must start m2.log --model shapes/m2w4 --load-format dummy --max-num-seqs 128 --no-enable-prefix-caching \
    --prefill-activations fp8 --kv-cache-dtype "${KV:-auto}" ${SERVE:-}
  curl -s "$url/v1/completions" -H 'content-type: application/json' -o "$OUT/first.json" \
    -d '{"model":"m2w4","prompt":[5,6,7],"max_tokens":1,"ignore_eos":true}'
  echo "start to the first token: $((($(date +%s%N) - begin) / 1000000)) ms"
  local load
  for load in ${LOADS:-1:6 16:32 32:64 128:128}; do
    must timeout 60 ./minimo bench serve --base-url "$url" --backend openai --endpoint /v1/completions \
      --dataset-name random --random-input-len 900 --random-output-len 90 --random-range-ratio 0.03 \
      --vocab-size 200064 --seed 0 --num-prompts "${load#*:}" --max-concurrency "${load%:*}" --temperature 0 \
      --disable-tqdm --percentile-metrics ttft,tpot,itl,e2el --memory-bandwidth 4540 --quantization w4 \
      --json "$OUT/plan-c${load%:*}.json" > "$OUT/plan-c${load%:*}.txt"
    grep -E "Output token throughput|Median T" "$OUT/plan-c${load%:*}.txt"
  done
  stop
}

"$1"
exit $status

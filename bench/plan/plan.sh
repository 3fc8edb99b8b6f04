# The original benchmark plan, shared by minimax-m2.sh and mimo-v2-flash.sh: random prompts of 900 tokens and answers of
# 90 with range ratio 0.03, at concurrencies 1 to 256, against servers of several batch sizes.
#
#   NAME.sh [--model MODEL] [--out DIR] [--quick] [--base-url URL] [--port N] [-- FLAGS OF minimo serve]
#     --model     a checkpoint folder or a shipped model; default: the shipped nano model of the family
#     --out       where results and report.html go; default: bench-results/NAME
#     --quick     a tenth of the lengths and an eighth of the prompts: the whole plan in seconds on a nano model
#     --base-url  measure a server that runs already, of any engine; only the largest batch size is run
#     --port      of the servers that the plan starts; default 8077
# MINIMO names the program; default: build/apps/minimo of this tree.

set -euo pipefail
plan_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
minimo=${MINIMO:-$plan_dir/../../build/apps/minimo}
server_pid=

stop_server() {
  [ -n "$server_pid" ] || return 0
  kill "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
}
trap stop_server EXIT

usage() {
  sed -n '1,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit "$1"
}

parse_flags() {
  model=$1 name=$2 out=bench-results/$2 quick= base_url= port=8077 server_flags=()
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      --quick) quick=1; shift ;;
      --help|-h) usage 0 ;;
      --) shift; server_flags=("$@"); break ;;
      --model|--out|--base-url|--port)
        [ $# -ge 2 ] || { echo "$1 needs a value" >&2; usage 2 >&2; }
        case $1 in
          --model) model=$2 ;;
          --out) out=$2 ;;
          --base-url) base_url=$2 ;;
          --port) port=$2 ;;
        esac
        shift 2 ;;
      *) echo "unknown flag $1" >&2; usage 2 >&2 ;;
    esac
  done
  input_len=900 output_len=90 prompts_divisor=1 iterations=3 serve_flags=() latency_flags=()
  if [ -n "$quick" ]; then
    input_len=90 output_len=9 prompts_divisor=8 iterations=1
    serve_flags+=(--memory-bandwidth none)  # measured once, without a server
  fi
  # Without a tokenizer (bare shapes) prompts are ids.
  case $model in nano-*) serve_flags+=(--tokenizer "$model") ;; esac
  [ ! -e "$model/tokenizer.json" ] || serve_flags+=(--tokenizer "$model")
  case " ${server_flags[*]-} " in *" --load-format dummy "*) latency_flags+=(--load-format dummy) ;; esac
  mkdir -p "$out"
}

# 16 prompts one at a time, 128 at 16 and 32 in flight, 512 beyond.
prompts_for() {
  local prompts=128
  if [ "$1" -le 1 ]; then prompts=16; elif [ "$1" -ge 128 ]; then prompts=512; fi
  echo $((prompts / prompts_divisor))
}

start_server() {  # BATCH_SIZE
  echo "== server with $1 sequences: $model"
  "$minimo" serve --model "$model" --port "$port" --max-num-seqs "$1" --no-enable-prefix-caching \
    ${server_flags[@]+"${server_flags[@]}"} > "$out/server-bs$1.log" 2>&1 &
  server_pid=$!
}

# "What is 1+1? Answer briefly.": the server is waited for, must answer, and should say 2.
sanity_check() {
  local answer
  "$minimo" bench serve --base-url "$url" --backend openai-chat --dataset-name custom \
    --dataset-path "$plan_dir/sanity.jsonl" --num-prompts 1 --custom-output-len 256 --temperature 0 \
    --ready-check-timeout-sec 900 --memory-bandwidth none --json "$out/sanity.json" > "$out/sanity.txt" ||
    { echo "the sanity check failed:" >&2; cat "$out/sanity.txt" >&2; tail -5 "$out"/server-*.log >&2 || true; exit 1; }
  answer=$(sed -n 's/.*"generated_texts":\["\(\([^"\\]\|\\.\)*\)"\].*/\1/p' "$out/sanity.json")
  echo "   What is 1+1? Answer briefly.  ->  $answer"
  case $answer in
    *2*|*two*|*Two*) ;;
    *) echo "   the answer does not say 2: right only for random weights" >&2 ;;
  esac
}

measure() {  # BATCH_SIZE CONCURRENCY
  local result=$out/serve-bs$1-c$2.json
  echo "-- batch size $1, $2 in flight, $(prompts_for "$2") prompts"
  "$minimo" bench serve --base-url "$url" --backend openai --endpoint /v1/completions --dataset-name random \
    --random-input-len "$input_len" --random-output-len "$output_len" --random-range-ratio 0.03 \
    --num-prompts "$(prompts_for "$2")" --max-concurrency "$2" --seed 0 --percentile-metrics ttft,tpot,itl,e2el \
    --label "$(basename "$model"), BS $1" --metadata "batch_size=$1" --json "$result" ${serve_flags[@]+"${serve_flags[@]}"} | tee "${result%.json}.txt"
}

# run_plan LATENCY_BATCHES BATCH_SIZE:CONCURRENCY,CONCURRENCY...
run_plan() {
  local latency_batches=$1 step size concurrencies
  shift
  if [ -z "$base_url" ]; then
    echo "== without a server: $model"
    [ -n "${latency_flags[*]-}" ] || "$minimo" bench load --model "$model" --num-iters "$iterations" --json "$out/load.json"
    "$minimo" bench latency --model "$model" --batch-size "$latency_batches" --input-len "$input_len" \
      --output-len "$output_len" --num-iters "$iterations" --json "$out/latency.json" ${latency_flags[@]+"${latency_flags[@]}"}
  else
    set -- "${@: -1}"
  fi
  for step in "$@"; do
    size=${step%%:*} concurrencies=${step#*:}
    url=${base_url:-http://127.0.0.1:$port}
    [ -n "$base_url" ] || start_server "$size"
    sanity_check
    for concurrency in ${concurrencies//,/ }; do measure "$size" "$concurrency"; done
    stop_server
  done
  local results=("$out"/serve-*.json)
  for result in "$out/latency.json" "$out/load.json"; do [ ! -e "$result" ] || results+=("$result"); done
  "$minimo" bench report "${results[@]}" --title "$name: the original plan" --html "$out/report.html"
  echo "== $out/report.html"
}

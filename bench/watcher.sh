#!/usr/bin/env bash
# What a watcher of /v1/engine/events costs the engine at 62 layers of 256 experts (a nano model widened, random
# weights): throughput with and without one, in turns. bench/watcher.sh [--pairs N] [--tokens N] ...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
model=$(mktemp -d)
trap 'rm -rf "$model"' EXIT
cp "$root"/models/nano-minimax-m2/{config,generation_config,tokenizer,tokenizer_config}.json \
  "$root"/models/nano-minimax-m2/chat_template.jinja "$model"
python3 - "$model/config.json" <<'PY'
import json, sys
config = json.load(open(sys.argv[1]))
config.update(num_hidden_layers=62, num_local_experts=256, attn_type_list=[1] * 62)
json.dump(config, open(sys.argv[1], "w"))
PY
"${MINIMO_BUILD:-$root/build}/src/server/watcher_bench" --model "$model" --load-format dummy "$@"

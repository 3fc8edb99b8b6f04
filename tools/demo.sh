#!/usr/bin/env bash
# The first thing that a newcomer sees: both shipped models answer three questions, reasoning and answer apart.
set -euo pipefail
minimo=$1
for model in nano-minimax-m2 nano-mimo-v2-flash; do
  for question in "What is 2+3? Answer briefly." "Explain what a neural network is in one sentence." \
                  "Write a haiku about the ocean."; do
    printf '\n[%s] %s\n' "$model" "$question"
    "$minimo" run --model "$model" --chat "$question" --greedy --max-tokens 200
  done
done

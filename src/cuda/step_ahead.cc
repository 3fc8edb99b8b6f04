#include "cuda/step_ahead.h"

#include <algorithm>

namespace minimo::cuda {
namespace {

bool HasCopies(const StepRecord& step) {
  return !step.block_copies.empty() || !step.ring_restores.empty() || !step.ring_snapshots.empty();
}

// Blocks that hold positions [0, end).
bool SameBlocks(const StepRecord& a, const SequenceStep& of_a, const StepRecord& b, const SequenceStep& of_b, int end,
                int block_size) {
  const int blocks = (end + block_size - 1) / block_size;
  if (of_a.num_blocks < blocks || of_b.num_blocks < blocks) return false;
  const auto first = a.block_tables.begin() + of_a.block_table;
  return std::equal(first, first + blocks, b.block_tables.begin() + of_b.block_table);
}

// Which replica's each sequence is: replicas count blocks and rings each from 0.
std::vector<int32_t> ReplicaOfEach(const StepRecord& step) {
  std::vector<int32_t> of(step.sequences.size(), 0);
  auto at = of.begin();
  for (size_t r = 0; r < step.replicas.size(); ++r) {
    at = std::fill_n(at, step.replicas[r].sequences, static_cast<int32_t>(r));
  }
  return of;
}

}  // namespace

bool NextStep(const StepRecord& step, const KvLayout& layout, StepRecord* next) {
  int window = 0;
  for (const KvGroup& group : layout.groups) window = std::max(window, group.window);
  const int slack = layout.ring_tokens - window + 1;  // kv/kv_cache.h
  *next = {};
  next->id = step.id + 1;
  next->tokens.assign(step.tokens.size(), 0);
  next->sequences = step.sequences;
  next->block_tables = step.block_tables;
  for (const ReplicaCounts& r : step.replicas) next->replicas.push_back({r.tokens, r.sequences, r.block_tables});
  for (SequenceStep& s : next->sequences) {
    if (s.num_tokens != 1 || s.num_logits != 1) return false;
    s.past += 1;
    if (s.past + 1 > s.num_blocks * layout.block_size) return false;
    // Rings written up to s.past serve the last block boundary, and one row more would end that.
    if (s.ring >= 0 && s.past % layout.block_size <= slack && s.past % layout.block_size + 1 > slack) return false;
  }
  return !next->sequences.empty();
}

bool IsPartOf(const StepRecord& step, const StepRecord& ahead, const std::vector<int32_t>& ahead_tokens,
              int block_size, std::vector<int32_t>* rows) {
  rows->clear();
  if (HasCopies(step)) return false;
  const std::vector<int32_t> replica = ReplicaOfEach(step), ahead_replica = ReplicaOfEach(ahead);
  size_t at = 0;
  for (const SequenceStep& s : step.sequences) {
    const int32_t its = replica[static_cast<size_t>(&s - step.sequences.data())];
    if (s.num_tokens != 1 || s.num_logits != 1) return false;
    const int32_t token = step.tokens[static_cast<size_t>(s.first_token)];
    for (; at < ahead.sequences.size(); ++at) {
      const SequenceStep& a = ahead.sequences[at];
      if (ahead_replica[at] == its && a.past == s.past && a.ring == s.ring &&
          ahead_tokens[static_cast<size_t>(a.first_token)] == token &&
          SameBlocks(step, s, ahead, a, s.past + 1, block_size)) {
        break;
      }
    }
    if (at == ahead.sequences.size()) return false;
    rows->push_back(static_cast<int32_t>(at++));
  }
  return !rows->empty();
}

}  // namespace minimo::cuda

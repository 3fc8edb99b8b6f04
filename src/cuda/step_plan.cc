#include "cuda/step_plan.h"

#include <algorithm>

#include "base/error.h"
#include "kv/replica_step.h"

namespace minimo::cuda {

int64_t StepLayout::Tiles(int group_index) const {
  int64_t at = (Section(7) + 3) / 4 * 4;  // 16-byte aligned
  for (int i = 0; i < group_index; ++i) {
    // A sequence of n tokens has at most n * group / 128 + 1 tiles, and there are at most max_tokens sequences.
    at += 4 * (int64_t{max_tokens} * groups[i] / kPrefillTileRows + max_tokens);
  }
  return at;
}

Status PlanStep(const StepRecord& step, const StepLayout& layout, int vocab, int num_blocks, int num_rings,
                StepPlan* plan, int replica) {
  const auto tokens = static_cast<int64_t>(step.tokens.size());
  if (tokens == 0 || tokens > layout.max_tokens) {
    return Errorf("step {}: {} tokens, the device buffers hold 1 to {}", step.id, tokens, layout.max_tokens);
  }
  const int64_t tables = layout.BlockTables();
  plan->packed.resize(static_cast<size_t>(tables) + step.block_tables.size());
  int32_t* to = plan->packed.data();
  for (int64_t i = 0; i < tokens; ++i) {
    if (step.tokens[i] < 0 || step.tokens[i] >= vocab) {
      return Errorf("step {}: token id {} is not in [0, {})", step.id, step.tokens[i], vocab);
    }
    to[layout.TokenIds() + i] = step.tokens[i];
  }
  for (size_t i = 0; i < step.block_tables.size(); ++i) {
    if (step.block_tables[i] < 0 || step.block_tables[i] >= num_blocks) {
      return Errorf("step {}: block {} is not in [0, {})", step.id, step.block_tables[i], num_blocks);
    }
    to[tables + static_cast<int64_t>(i)] = step.block_tables[i];
  }
  plan->tokens = static_cast<int>(tokens);
  plan->logit_rows = 0;
  plan->singles = plan->longest_single = 0;
  plan->one_token_each = true;
  const auto [before, mine] = PlaceOfReplica(step, replica);
  plan->own = {before.tokens, mine.tokens};
  plan->replicas.clear();
  for (int first = 0; const ReplicaCounts& r : step.replicas) {
    plan->replicas.push_back({first, r.tokens});
    first += r.tokens;
  }
  plan->tiles.assign(layout.groups.size(), 0);
  for (const SequenceStep& s : step.sequences) {
    if (s.first_token < 0 || s.num_tokens < 1 || s.first_token + s.num_tokens > tokens || s.num_logits < 0 ||
        s.num_logits > s.num_tokens || s.ring >= num_rings ||
        s.block_table + s.num_blocks > static_cast<int64_t>(step.block_tables.size())) {
      return Errorf("step {}: a sequence of {} tokens at {}, ring {}, blocks {}+{} does not fit the step", step.id,
                    s.num_tokens, s.first_token, s.ring, s.block_table, s.num_blocks);
    }
    const int64_t index = &s - step.sequences.data();
    plan->one_token_each = plan->one_token_each && s.num_tokens == 1 && s.num_logits == 1 && s.first_token == index;
    for (int32_t i = 0; i < s.num_tokens; ++i) {
      const int64_t token = s.first_token + i;
      to[layout.Positions() + token] = s.past + i;
      to[layout.BlockTableOf() + token] = s.block_table;
      to[layout.RingOf() + token] = s.ring;
      to[layout.Past() + token] = s.past;
      to[layout.Last() + token] = s.past + s.num_tokens - 1;
      if (i >= s.num_tokens - s.num_logits) {
        to[layout.LogitRows() + plan->logit_rows++] = static_cast<int32_t>(token);
      }
    }
    if (index < before.sequences || index >= before.sequences + mine.sequences) continue;
    if (s.num_tokens == 1 && s.first_token == plan->own.first + plan->singles) {
      ++plan->singles;
      plan->longest_single = std::max(plan->longest_single, s.past + 1);
      continue;
    }
    for (size_t g = 0; g < layout.groups.size(); ++g) {
      for (int32_t row = 0; row < s.num_tokens * layout.groups[g]; row += kPrefillTileRows) {
        int32_t* tile = to + layout.Tiles(static_cast<int>(g)) + 4 * plan->tiles[g]++;
        tile[0] = s.first_token - plan->own.first;
        tile[1] = s.num_tokens;
        tile[2] = row;
        tile[3] = s.past;
      }
    }
  }
  plan->one_token_each = plan->one_token_each && std::ssize(step.sequences) == tokens;
  return {};
}

}  // namespace minimo::cuda

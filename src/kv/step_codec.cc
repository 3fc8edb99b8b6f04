#include "kv/step_codec.h"

#include <bit>
#include <cstring>

#include "base/error.h"

namespace minimo {
namespace {

static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(SequenceStep) == 7 * sizeof(int32_t) && sizeof(CacheCopy) == 2 * sizeof(int32_t));
static_assert(sizeof(RowRequest) == 8 && sizeof(ReplicaCounts) == 6 * sizeof(int32_t));

template <typename T>
void Put(const std::vector<T>& values, std::vector<std::byte>* bytes) {
  const uint64_t count = values.size();
  const auto head = std::as_bytes(std::span(&count, 1));
  const auto body = std::as_bytes(std::span(values));
  bytes->insert(bytes->end(), head.begin(), head.end());
  bytes->insert(bytes->end(), body.begin(), body.end());
}

struct Reader {
  std::span<const std::byte> left;

  bool Take(void* to, size_t bytes) {
    if (left.size() < bytes) return false;
    if (bytes > 0) std::memcpy(to, left.data(), bytes);
    left = left.subspan(bytes);
    return true;
  }
  template <typename T>
  bool Take(std::vector<T>* values) {
    uint64_t count = 0;
    if (!Take(&count, sizeof count) || count > left.size() / sizeof(T)) return false;
    values->resize(count);
    return Take(values->data(), count * sizeof(T));
  }
};

// The replicas' parts make up the whole lists, and each one's sequences stay within its tokens and blocks.
bool ReplicasConsistent(const StepRecord& step) {
  if (step.replicas.empty()) return true;
  int64_t tokens = 0, sequences = 0, tables = 0, blocks = 0, restores = 0, snapshots = 0;
  for (const ReplicaCounts& r : step.replicas) {
    for (const int32_t count :
         {r.tokens, r.sequences, r.block_tables, r.block_copies, r.ring_restores, r.ring_snapshots}) {
      if (count < 0) return false;
    }
    if (sequences + r.sequences > std::ssize(step.sequences)) return false;
    for (int64_t i = sequences; i < sequences + r.sequences; ++i) {
      const SequenceStep& s = step.sequences[static_cast<size_t>(i)];
      if (s.first_token < tokens || s.first_token + s.num_tokens > tokens + r.tokens || s.block_table < tables ||
          s.block_table + s.num_blocks > tables + r.block_tables) {
        return false;
      }
    }
    tokens += r.tokens, sequences += r.sequences, tables += r.block_tables;
    blocks += r.block_copies, restores += r.ring_restores, snapshots += r.ring_snapshots;
  }
  return tokens == std::ssize(step.tokens) && sequences == std::ssize(step.sequences) &&
         tables == std::ssize(step.block_tables) && blocks == std::ssize(step.block_copies) &&
         restores == std::ssize(step.ring_restores) && snapshots == std::ssize(step.ring_snapshots);
}

// Indices that replaying the step would follow.
bool Consistent(const StepRecord& step) {
  const auto within = [](int64_t begin, int64_t count, size_t size) {
    return begin >= 0 && count >= 0 && begin + count <= static_cast<int64_t>(size);
  };
  for (const SequenceStep& s : step.sequences) {
    if (!within(s.first_token, s.num_tokens, step.tokens.size()) || s.past < 0 || s.num_logits < 0 ||
        s.num_logits > s.num_tokens || !within(s.block_table, s.num_blocks, step.block_tables.size())) {
      return false;
    }
  }
  for (const RowRequest& r : step.row_requests) {
    if (r.candidates < 0 || !(r.temperature > 0)) return false;
  }
  if (!ReplicasConsistent(step)) return false;
  return step.row_requests.empty() || static_cast<int>(step.row_requests.size()) == step.NumLogits();
}

}  // namespace

void EncodeStep(const StepRecord& step, std::vector<std::byte>* bytes) {
  const auto id = std::as_bytes(std::span(&step.id, 1));
  bytes->insert(bytes->end(), id.begin(), id.end());
  Put(step.tokens, bytes);
  Put(step.sequences, bytes);
  Put(step.block_tables, bytes);
  Put(step.row_requests, bytes);
  Put(step.block_copies, bytes);
  Put(step.ring_restores, bytes);
  Put(step.ring_snapshots, bytes);
  Put(step.replicas, bytes);
}

Result<StepRecord> DecodeStep(std::span<const std::byte> bytes) {
  StepRecord step;
  Reader reader{bytes};
  if (!reader.Take(&step.id, sizeof step.id) || !reader.Take(&step.tokens) || !reader.Take(&step.sequences) ||
      !reader.Take(&step.block_tables) || !reader.Take(&step.row_requests) || !reader.Take(&step.block_copies) ||
      !reader.Take(&step.ring_restores) || !reader.Take(&step.ring_snapshots) || !reader.Take(&step.replicas) ||
      !reader.left.empty()) {
    return Errorf("a step record of {} bytes is cut off or too long", bytes.size());
  }
  if (!Consistent(step)) return Errorf("step record {} points beyond its own tokens or blocks", step.id);
  return step;
}

}  // namespace minimo

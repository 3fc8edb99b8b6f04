#include "kv/replica_step.h"

#include <cstddef>

namespace minimo {
namespace {

template <typename T>
int32_t Append(const std::vector<T>& from, std::vector<T>* to) {
  to->insert(to->end(), from.begin(), from.end());
  return static_cast<int32_t>(from.size());
}

template <typename T>
void Take(const std::vector<T>& from, int32_t begin, int32_t count, std::vector<T>* to) {
  to->assign(from.begin() + begin, from.begin() + begin + count);
}

}  // namespace

void AppendReplica(const StepRecord& part, StepRecord* whole) {
  const auto tokens = static_cast<int32_t>(whole->tokens.size());
  const auto tables = static_cast<int32_t>(whole->block_tables.size());
  ReplicaCounts counts;
  counts.sequences = Append(part.sequences, &whole->sequences);
  for (auto s = whole->sequences.end() - counts.sequences; s != whole->sequences.end(); ++s) {
    s->first_token += tokens;
    s->block_table += tables;
  }
  counts.tokens = Append(part.tokens, &whole->tokens);
  counts.block_tables = Append(part.block_tables, &whole->block_tables);
  Append(part.row_requests, &whole->row_requests);
  counts.block_copies = Append(part.block_copies, &whole->block_copies);
  counts.ring_restores = Append(part.ring_restores, &whole->ring_restores);
  counts.ring_snapshots = Append(part.ring_snapshots, &whole->ring_snapshots);
  whole->replicas.push_back(counts);
}

ReplicaPlace PlaceOfReplica(const StepRecord& whole, int replica) {
  ReplicaPlace place;
  auto& [before, mine] = place;
  if (whole.replicas.empty() && replica == 0) {
    const auto count = [](const auto& list) { return static_cast<int32_t>(list.size()); };
    mine = {count(whole.tokens), count(whole.sequences), count(whole.block_tables), count(whole.block_copies),
            count(whole.ring_restores), count(whole.ring_snapshots)};
    return place;
  }
  for (size_t r = 0; r < whole.replicas.size() && r <= static_cast<size_t>(replica); ++r) {
    before.tokens += mine.tokens;
    before.sequences += mine.sequences;
    before.block_tables += mine.block_tables;
    before.block_copies += mine.block_copies;
    before.ring_restores += mine.ring_restores;
    before.ring_snapshots += mine.ring_snapshots;
    mine = whole.replicas[r];
  }
  if (static_cast<size_t>(replica) >= whole.replicas.size()) before = mine = {};
  return place;
}

void TakeReplica(const StepRecord& whole, int replica, StepRecord* part) {
  const auto [before, mine] = PlaceOfReplica(whole, replica);
  part->id = whole.id;
  part->replicas.clear();
  part->row_requests.clear();
  Take(whole.tokens, before.tokens, mine.tokens, &part->tokens);
  Take(whole.sequences, before.sequences, mine.sequences, &part->sequences);
  for (SequenceStep& s : part->sequences) {
    s.first_token -= before.tokens;
    s.block_table -= before.block_tables;
  }
  Take(whole.block_tables, before.block_tables, mine.block_tables, &part->block_tables);
  Take(whole.block_copies, before.block_copies, mine.block_copies, &part->block_copies);
  Take(whole.ring_restores, before.ring_restores, mine.ring_restores, &part->ring_restores);
  Take(whole.ring_snapshots, before.ring_snapshots, mine.ring_snapshots, &part->ring_snapshots);
}

}  // namespace minimo

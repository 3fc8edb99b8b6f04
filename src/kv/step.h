// One step of the model, as plain data: what the leader's scheduler decided and what every rank computes. Followers
// replay it unchanged; it holds ids and numbers only, never pointers.
#pragma once

#include <cstdint>
#include <vector>

namespace minimo {

struct SequenceStep {
  int32_t first_token = 0;   // index of its first new token in StepRecord::tokens
  int32_t num_tokens = 0;    // new tokens: 1 in decode, a chunk in prefill, 1 + drafts in speculative decoding
  int32_t past = 0;          // tokens already in the cache = position of the first new token
  int32_t block_table = 0;   // its block ids are block_tables[block_table, block_table + num_blocks)
  int32_t num_blocks = 0;    // covers past + num_tokens; position p lives in entry p / block_size, row p % block_size
  int32_t ring = -1;         // its ring in the sliding groups (position p at row p % ring_tokens); -1: there are none
  int32_t num_logits = 0;    // the last num_logits new tokens each give one row of logits; 0 inside a prompt
};

// What rank 0 needs of a row of logits, where ranks share the vocabulary.
struct RowRequest {
  int32_t candidates = 0;  // each rank's best; 0: the whole row
  float temperature = 1;   // of the sum that comes with them
};

struct CacheCopy {
  int32_t from = 0;
  int32_t to = 0;
};

// How much of each list is of one replica of attention (kv/replica_step.h).
struct ReplicaCounts {
  int32_t tokens = 0;
  int32_t sequences = 0;
  int32_t block_tables = 0;
  int32_t block_copies = 0;
  int32_t ring_restores = 0;
  int32_t ring_snapshots = 0;
};

struct StepRecord {
  uint64_t id = 0;                     // counts up by one
  std::vector<int32_t> tokens;         // all new tokens, sequence after sequence
  std::vector<SequenceStep> sequences;
  std::vector<int32_t> block_tables;
  std::vector<RowRequest> row_requests;  // one for each row of logits; empty: whole rows
  // Within one list no target is another copy's source or target, so the copies may run in any order.
  std::vector<CacheCopy> block_copies;       // before the step: a forked sequence's last, partly filled block
  std::vector<CacheCopy> ring_restores;      // before the step: snapshot or parent ring -> a sequence's ring
  std::vector<CacheCopy> ring_snapshots;     // after the step: a sequence's ring -> a prefix-cache snapshot
  // Of several replicas, each with blocks and rings of its own: the lists above are one replica's part after the other.
  // Empty: all is the first one's.
  std::vector<ReplicaCounts> replicas;

  int NumLogits() const {
    int rows = 0;
    for (const SequenceStep& s : sequences) rows += s.num_logits;
    return rows;
  }
};

}  // namespace minimo

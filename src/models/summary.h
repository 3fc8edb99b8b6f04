// What a checkpoint is: parameters and bytes by part, KV cache per token. For `minimo inspect`, floors and start-up logs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "models/loader.h"

namespace minimo {

struct PartSize {
  int64_t parameters = 0;
  int64_t active = 0;  // of these, used by one token
  int64_t bytes = 0;   // as stored, scales included
};

struct ModelSummary {
  std::map<std::string, PartSize> parts;        // "attention", "experts", "dense ffn", "router", "embedding", ...
  std::map<std::string, int64_t> bytes_by_dtype;
  PartSize total;                               // without the MTP layers
  int64_t mtp_parameters = 0;
  int64_t kv_bytes_per_token = 0;               // full-attention layers, bf16
  int64_t kv_bytes_per_sequence = 0;            // sliding-window layers, bf16, whatever the context
  int64_t weight_bytes_per_token = 0;           // read by one decode step of batch 1: active parts, one embedding row
};

ModelSummary Summarize(const LoadedModel& model);

// Of a checkpoint that is written as one file set a rank: bytes are those of all ranks whose files are here, so what
// several hold counts several times.
Result<ModelSummary> SummarizeRanks(const LoadedModel& model, std::vector<int>* missing);

}  // namespace minimo

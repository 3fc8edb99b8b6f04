// One sequence alone, without engine or scheduler: for `minimo logits`, `eval`, conversions and the golden tests.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "layers/decoder.h"
#include "layers/kv_storage.h"
#include "models/loader.h"
#include "models/shard.h"

namespace minimo {

class OfflineRunner {
 public:
  // Room for max_tokens positions. The model and the team outlive the runner.
  OfflineRunner(const LoadedModel& model, ThreadTeam& team, DType kv_dtype, int max_tokens);
  // One of many ranks, all of which make the same calls of TryAppend.
  OfflineRunner(const RankModel& model, ThreadTeam& team, DType kv_dtype, int max_tokens);

  // Feeds the next tokens; returns the logits [num_logits, vocab] of the last num_logits of them, valid until the next
  // call. capture may be null.
  std::span<const float> Append(std::span<const int32_t> tokens, int num_logits, ForwardCapture* capture = nullptr);
  // The same; fails if a rank does. Only rank 0 gets logits, all get the capture.
  Result<std::span<const float>> TryAppend(std::span<const int32_t> tokens, int num_logits,
                                           ForwardCapture* capture = nullptr);

  int position() const { return past_; }
  void Reset() { past_ = 0; }

 private:
  OfflineRunner(const ModelSpec& spec, const DecoderWeights& weights, const RankShare& share, ThreadTeam& team,
                DType kv_dtype, int max_tokens);

  const ModelSpec& spec_;
  const bool leads_;  // rank 0
  Decoder decoder_;
  KvStorage kv_;
  int past_ = 0;
  std::vector<int32_t> block_table_;
  std::vector<float> logits_;
};

}  // namespace minimo

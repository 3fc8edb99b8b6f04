#include "models/offline_runner.h"

#include <numeric>

#include "base/check.h"
#include "models/kv_layout.h"

namespace minimo {
namespace {

KvLayout OneSequence(const ModelSpec& spec, DType kv_dtype, int max_tokens) {
  KvLayout layout = MakeKvLayout(spec, kv_dtype, 16);
  layout.num_blocks = (max_tokens + layout.block_size - 1) / layout.block_size;
  layout.num_rings = layout.ring_tokens > 0 ? 1 : 0;
  return layout;
}

}  // namespace

OfflineRunner::OfflineRunner(const LoadedModel& model, ThreadTeam& team, DType kv_dtype, int max_tokens)
    : OfflineRunner(model.spec, model.weights, {}, team, kv_dtype, max_tokens) {}

OfflineRunner::OfflineRunner(const RankModel& model, ThreadTeam& team, DType kv_dtype, int max_tokens)
    : OfflineRunner(model.spec, model.weights, model.share, team, kv_dtype, max_tokens) {}

OfflineRunner::OfflineRunner(const ModelSpec& spec, const DecoderWeights& weights, const RankShare& share,
                             ThreadTeam& team, DType kv_dtype, int max_tokens)
    : spec_(spec),
      leads_(share.alone() || share.comm->rank() == 0),
      decoder_(spec, weights, team, share),
      kv_(GroupKv(spec), OneSequence(spec, kv_dtype, max_tokens), kv_dtype) {
  block_table_.resize(static_cast<size_t>(kv_.layout().num_blocks));
  std::iota(block_table_.begin(), block_table_.end(), 0);
}

std::span<const float> OfflineRunner::Append(std::span<const int32_t> tokens, int num_logits, ForwardCapture* capture) {
  const auto logits = TryAppend(tokens, num_logits, capture);
  CHECK(logits.ok());  // only other ranks can fail
  return *logits;
}

Result<std::span<const float>> OfflineRunner::TryAppend(std::span<const int32_t> tokens, int num_logits,
                                                        ForwardCapture* capture) {
  CHECK(past_ + tokens.size() <= block_table_.size() * static_cast<size_t>(kv_.layout().block_size));
  StepRecord step;
  step.tokens.assign(tokens.begin(), tokens.end());
  step.block_tables = block_table_;
  SequenceStep s;
  s.num_tokens = static_cast<int32_t>(tokens.size());
  s.past = past_;
  s.num_blocks = static_cast<int32_t>(block_table_.size());
  s.ring = kv_.layout().num_rings > 0 ? 0 : -1;
  s.num_logits = num_logits;
  step.sequences = {s};
  logits_.resize(leads_ ? static_cast<size_t>(num_logits) * static_cast<size_t>(spec_.vocab) : 0);
  MINIMO_TRY(decoder_.Forward(step, kv_, logits_.data(), capture));
  past_ += s.num_tokens;
  return std::span<const float>(logits_);
}

}  // namespace minimo

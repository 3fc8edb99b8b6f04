// The stack that both models are: embedding, layers of attention and feed-forward with pre-norm residuals, final norm,
// head. What differs between them is in the spec and the weights.
//
// Thread rule: one step at a time. Lifetime: the weights outlive the decoder.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "layers/attention_layer.h"
#include "layers/ffn.h"
#include "layers/step_context.h"
#include "layers/weight.h"
#include "spec/model_spec.h"

namespace minimo {

class Decoder {
 public:
  // With a share, spec and weights are the rank's own (models/shard.h) and every rank makes the same calls.
  Decoder(const ModelSpec& spec, const DecoderWeights& weights, ThreadTeam& team, RankShare share = {});

  // One step, cache copies included. logits: [step.NumLogits(), vocab] float32, on rank 0 alone (null elsewhere).
  // capture may be null. Fails only if a rank does.
  Status Forward(const StepRecord& step, KvStorage& kv, float* logits, ForwardCapture* capture);

  // Of several ranks: the same without the last exchange. The rank's part of the logits stays until the next step.
  Status ForwardLocal(const StepRecord& step, KvStorage& kv);
  std::span<const float> local_logits() const { return local_logits_; }  // [step.NumLogits(), vocab share]
  // These rows, whole, on rank 0: logits [rows.size(), vocab].
  Status GatherLogits(std::span<const int32_t> rows, float* logits);

  // Tokens routed to each expert since start, [layers][experts]; dense layers stay 0.
  const std::vector<std::vector<int64_t>>& expert_load() const { return expert_load_; }

 private:
  struct RopeBase {
    double theta;
    int rotary_dim;
    RopeTable table;
  };
  const RopeTable& RopeOf(const AttentionSpec& a) const;
  StepContext MakeContext(const StepRecord& step, KvStorage& kv);
  // Rows that each replica of attention has in a step; one replica: unused.
  struct ReplicaRows {
    std::vector<int64_t> floats;  // [ranks]: those of a replica's rows, at its first rank; 0 at the others
    int64_t all = 0, before = 0, mine = 0;  // rows
  };
  // Before the first step: the ranks that share this one's sequences find each other.
  Status JoinReplica();
  void CountRows(const StepRecord& step, ReplicaRows* tokens, ReplicaRows* logits) const;
  // all_ = the rows of all replicas.
  Status GatherRows(const float* mine, const ReplicaRows& rows);
  Status Embed(const StepRecord& step);
  // x_ += the feed-forward of h_, on `rows` rows and where they are replicas' on those of all.
  Status FeedForward(bool decode, int layer, int64_t rows, const ReplicaRows& of_replicas);
  Status Layers(const StepRecord& step, KvStorage& kv, ForwardCapture* capture, int64_t* rows);
  // The head on `rows` rows of h_: the whole of it, or of several ranks this one's part, into local_logits_.
  void Head(int64_t rows, float* logits);
  void Capture(const StepContext& context, int layer, int64_t rows, ForwardCapture* capture) const;

  const ModelSpec& spec_;
  const DecoderWeights& weights_;
  ThreadTeam& team_;
  const RankShare share_;
  std::unique_ptr<Communicator> replica_;  // the ranks that share attention, if not all do and they are several
  RankShare attention_share_;              // as layers of attention see it
  bool joined_ = false;
  std::vector<AttentionLayer> attention_;
  std::vector<RopeBase> rope_;
  std::vector<std::vector<int64_t>> expert_load_;
  std::vector<int32_t> positions_, logit_rows_;  // of the step
  Buffer<float> x_, h_, block_out_;
  StepRecord own_;                          // of several replicas: this one's part of the step
  ReplicaRows token_rows_, logit_row_counts_;
  Buffer<float> all_, all_out_;             // [rows of all replicas, hidden]
  std::vector<float> local_logits_, sent_logits_, gathered_logits_;  // of several ranks
  AttentionScratch attention_scratch_;
  FfnScratch ffn_scratch_;
};

}  // namespace minimo

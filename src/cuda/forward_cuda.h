// Enqueues one step of the model, the kernels in order: decode_cuda.cc has the layers of a step with one token a
// sequence, prefill_cuda.cc and prefill_fp8_cuda.cc those of any other, forward_cuda.cc what all share,
// forward_ranks_cuda.cc what several GPUs say to each other.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/device_cuda.h"
#include "cuda/device_kv_cuda.h"
#include "cuda/device_weights_cuda.h"
#include "cuda/exchange_cuda.h"
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/fp8_linear.cuh"
#include "cuda/kernels/router.cuh"
#include "cuda/kernels/stream_experts.cuh"
#include "cuda/kernels/stream_linear.cuh"
#include "cuda/kernels/stream_token.cuh"
#include "cuda/kernels/tokens.cuh"
#include "cuda/routing_probe_cuda.h"
#include "cuda/step_plan.h"
#include "cuda/workspace_cuda.h"
#include "minimo/result.h"
#include "spec/model_spec.h"

namespace minimo::cuda {

// Into how many runs decode attention cuts the contexts of a step: enough blocks to fill the device, runs of at least
// 64 keys (four warps of 16). Few values, so that few graphs are made.
int DecodeSplits(const ModelSpec& spec, int tokens, int longest_context);

class Forward {
 public:
  Forward(const ModelSpec& spec, const DeviceWeights& weights, const DeviceKv& kv, const Workspace& workspace,
          const StepLayout& layout, bool f32, bool fp8_prefill, Exchange* exchange, const RoutingProbe* probe)
      : spec_(spec), weights_(weights), kv_(kv), w_(workspace), layout_(layout), f32_(f32), fp8_prefill_(fp8_prefill),
        exchange_(exchange), probe_(probe) {}
  Status Prepare(cudaStream_t stream);  // constants on the device

  // All layers. `packed`: StepLayout, device.
  // decode: all are singles, and each gives logits. splits: into how many runs the singles' contexts are cut.
  Status Layers(const int32_t* packed, const StepPlan& plan, bool decode, int splits, cudaStream_t stream) const;
  // After them: logits of rows [first, first + count) of the plan's logit rows go to the workspace from its start; of
  // several ranks, each one's part of the vocabulary to the exchange's local_logits.
  Status Head(const int32_t* packed, int tokens, int first, int count, cudaStream_t stream) const;

 private:
  using Rows = StepPlan::Rows;
  struct Step {
    const int32_t* packed;
    int tokens;
    Rows own;  // whose attention is here, all or those of this rank's replica; what it takes and leaves is theirs alone
    const std::vector<Rows>& replicas;  // of each; empty: one
    bool decode;
    int singles;
    int splits;
    const std::vector<int>& tiles;
    cudaStream_t stream;
    TokenMeta meta;  // of `own`
  };
  // Whose rows a part of the sum over ranks is: of all tokens, or of those whose attention is here.
  enum class Of { kAll, kOwn };
  static Rows RowsOf(Of of, const Step& s) { return of == Of::kOwn ? s.own : Rows{0, s.tokens}; }
  // Where the sums of squares after a layer are, for the RMSNorm that follows.
  struct Squares {
    const float* sums;
    int count;  // of partial sums a token
  };
  Squares SquaresAfter(int layer, int tokens) const;
  Squares SquaresAfterAttention(int layer) const;
  static int SplitsOf(const AttentionSpec& a, int splits);
  Status Decode(const Step& s) const;
  Status DecodeAttention(int layer, const Step& s) const;
  Status SinglesAttention(int layer, const Step& s) const;
  Status DecodeExperts(int layer, const Step& s) const;
  Status SumExperts(int layer, const RouterParams& r, const Step& s) const;
  // Whether the kernels that make the input of a decode step's QKV and o_proj leave it in two parts (split_rows.cuh).
  bool SplitsInput(int layer, const Step& s) const;
  bool SplitsAttended(int layer, const Step& s) const;
  ExpertsParams ExpertsOf(int layer, const RouterParams& r, bool gate_up) const;
  // One token, bf16: products as exact as float32 ones on float32 activations, whole phases a kernel.
  bool CanDecodeOne() const;
  Status DecodeOne(const Step& s) const;
  Status DecodeOneOnRanks(const Step& s) const;
  Status AttentionOne(int layer, const Step& s) const;
  Status HeadOne(cudaStream_t stream) const;
  OneParams One(const DeviceMatrix& m, OneMode mode) const;
  OneParams QkvOne(int layer) const;
  OneParams OutputOne(int layer) const;
  OneParams GateUpOne(int layer) const;
  RouterOneParams RouterOne(int layer, const OneParams& up) const;
  OneParams DownOne(int layer) const;
  Status Prefill(const Step& s) const;
  Status PrefillAttention(int layer, const Step& s) const;
  Status PrefillExperts(int layer, const Step& s) const;
  // The same with activations quantised to e4m3 before every product.
  Status PrefillFp8(const Step& s) const;
  Status ExpertsFp8(int layer, const Step& s) const;
  Status DenseFp8(int layer, const Step& s) const;
  // In a prefill with FP8 activations: true if QKV leaves bf16,
  bool QkvInBf16(int layer, const Step& s) const;
  // if attention leaves what o_proj takes, of the tokens that are not singles.
  bool AttentionFeedsProduct(int layer, const Step& s) const;
  Fp8Activations Activations(int rows, const TileShape& weights) const;  // the input of a product with `weights`
  Status QuantiseRows(const void* x, int stride, int rows, const Squares* squares, const Fp8Activations& out,
                      const Step& s) const;
  Status QuantiseNormed(const float* norm, const Squares& squares, const Rows& rows, const Fp8Activations& out,
                        const Step& s) const;
  Status QuantiseForNext(int layer, const Step& s) const;  // the input of the layer after
  Fp8LinearParams Fp8Linear(const LinearParams& p, const Fp8Activations& x) const;

  Status Embed(const Step& s, Squares* squares) const;
  Status Dense(int layer, const Step& s) const;  // the whole of a dense layer's feed-forward part
  Status Run(const LinearParams& p, cudaStream_t stream) const;
  // What the kernels of a layer take.
  template <typename Params>
  void SetWeights(const DeviceMatrix& m, Params* p) const {
    p->shape = m.shape;
    p->weights = weights_.At(m.weights);
    p->scales = weights_.At(m.scales);
    p->expert_weight_bytes = m.expert_weight_bytes;
    p->expert_scale_bytes = m.expert_scale_bytes;
  }
  LinearParams Linear(const DeviceMatrix& m, int tokens) const;
  void ToResidual(const float* next_norm, float* next_square_sums, LinearParams* p) const;
  LinearParams OfExperts(const DeviceMatrix& m, const RouterParams& r) const;
  LinearParams QkvOf(int layer, const Rows& rows, Squares squares) const;
  RopeParams RopeOf(int layer, const Step& s) const;
  AttentionParams AttentionOf(int layer, const Step& s) const;
  LinearParams OutputOf(int layer, int tokens) const;
  RouterParams RouterOf(int layer, int tokens) const;
  LinearParams GateUpOf(int layer, const RouterParams& r) const;
  LinearParams DownOf(int layer, const RouterParams& r) const;
  RowParams SumOf(int layer, const RouterParams& r) const;
  // Of several ranks (forward_ranks_cuda.cc); for one GPU they do nothing. The router's lists without the experts of
  // others:
  Status KeepLocalExperts(const RouterParams& r, const Step& s) const;
  // The QK norm's sums over all heads.
  Status ShareNorms(int layer, const Step& s) const;
  // The rows of expert_out, or of each token's slots in it.
  struct Parts {
    Of of = Of::kAll;
    const int* slot_of = nullptr;  // the router's
    bool bf16 = false;
  };
  // The residual gets the sum of them over ranks. next_norm: null, no next input.
  Status AddParts(const Parts& parts, const float* next_norm, float* squares, const Step& s) const;
  // The residual gets the sum over ranks of one token's product, which is in partial sums.
  Status AddPartials(const OneParams& product, Of of, const Step& s) const;
  // Runs a product of these rows whose epilogue is kResidual; of several ranks each has a part of it.
  Status RunToResidual(LinearParams p, Of of, const Step& s) const;
  Status RunToResidual(Fp8LinearParams p, Of of, const Step& s) const;
  void SetParts(Of of, const Step& s, SumRowsParams* p) const;
  // Where the norm after layer i (the next input norm or the final one) finds its weight.
  const float* NormAfter(int layer) const;

  const ModelSpec& spec_;
  const DeviceWeights& weights_;
  const DeviceKv& kv_;
  const Workspace& w_;
  const StepLayout& layout_;
  bool f32_, fp8_prefill_;
  Exchange* exchange_;  // null: one GPU has the whole model
  const RoutingProbe* probe_;  // null: no checks
  bool decode_one_ = false;
  DeviceMemory frequencies_;
  std::vector<int64_t> frequency_of_layer_;  // byte offsets
};

}  // namespace minimo::cuda

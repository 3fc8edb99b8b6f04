// One model on one CUDA device: weights, KV cache and activations live there; a decode step is one graph.
//
// Thread rule: one caller at a time. Lifetime: nothing of the model is referenced after Create.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cuda/row_digest.h"
#include "kv/kv_layout.h"
#include "kv/step.h"
#include "layers/rank_share.h"
#include "layers/weight.h"
#include "minimo/result.h"
#include "spec/model_spec.h"

namespace minimo {
class ThreadTeam;
}

namespace minimo::cuda {

struct CudaOptions {
  int device = 0;
  bool f32 = false;             // float32 activations and KV cache: exact and slow, for verification; else bf16
  bool graphs = true;           // decode steps as CUDA graphs
  int max_tokens = 2048;        // of one step
  // Prefill with activations quantised to e4m3 (1 x 128 scales) on FP8 tensor cores, where every layer's weights are
  // FP8 or 4 bits in groups of 64 or 128; else bf16.
  bool fp8_prefill = false;
  bool random_weights = false;  // random values of the spec's shapes; the released formats
  int random_int4_group = 0;    // random weights: experts in 4 bits, groups of 32, 64 or 128 columns; 0: FP8
  bool random_fp8_head = false;
  // One of several ranks, a device each: its share (device_part.h, like the spec and the weights); null: all of it.
  // Every rank makes the same calls; rank 0 alone gets logits. The share and its communicator outlive the executor.
  const RankShare* share = nullptr;
  const MoeShare* decode_experts = nullptr;  // the rank's in decode steps, where they are not those of `share`
  bool probe_routing = false;  // for checks: Choices and Favour may be called; one device, not random weights
  int rank_timeout_ms = 8000;  // how long a silent rank is waited for
  bool peer_memory = true;     // sums through the GPUs' own memory; false: all by NCCL
};

struct CudaDevice {
  std::string name;
  int major = 0, minor = 0;
  int64_t total_bytes = 0, free_bytes = 0;
};

// The device, or a line that says why there is none that minimo can use: no driver, too old a driver, no such device,
// another generation than Hopper (9.0).
Result<CudaDevice> FindCudaDevice(int device);

// Tokens routed to each expert since start: [moe layers][experts].
struct CudaExpertLoad {
  int layers = 0;
  int experts = 0;
  std::vector<int64_t> counts;
};

class CudaExecutor {
 public:
  virtual ~CudaExecutor() = default;

  // Device bytes beside the KV cache: weights, activations, workspaces.
  static Result<int64_t> BytesBesideKv(const ModelSpec& spec, const DecoderWeights* weights,
                                       const CudaOptions& options);

  // layout.bytes_per_element: 1, an FP8 cache (e4m3 without a scale); else that of the activations.
  // Refuses, before anything is loaded, what does not fit. `weights` may be null if options.random_weights. The team
  // copies weights while loading.
  static Result<std::unique_ptr<CudaExecutor>> Create(const ModelSpec& spec, const DecoderWeights* weights,
                                                      const KvLayout& layout, const CudaOptions& options,
                                                      ThreadTeam& team);

  virtual const KvLayout& kv_layout() const = 0;
  virtual int vocab_size() const = 0;
  // logits: [step.NumLogits(), vocab_size] (empty on ranks other than 0), host memory of this object's, valid until
  // the next Run. An error is a fault of the device, which stays.
  virtual Status Run(const StepRecord& step, std::span<float>* logits) = 0;
  virtual CudaExpertLoad GetExpertLoad() const = 0;
  // With probe_routing. The experts of the tokens of the last step, [layers, tokens, top_k] (of dense layers zeros); a
  // step of one bf16 token leaves none. In the next steps of so many tokens such experts have `by` on top of their bias
  // (empty: none has).
  virtual Result<std::vector<int32_t>> Choices() const = 0;
  virtual Status Favour(std::span<const int32_t> choices, float by) = 0;

  // As Run, with digests of the rows instead of the rows: scales[i] (1 / temperature; 0: no candidates) is for row i of
  // the step, at most MostDigests() of them. They are valid until the next RunDigests. `ahead`: the next step will most
  // likely be the same sequences, each with its argmax: it is started at once, and if the next call asks for it, or for
  // a part of it, the device has not waited. Ranks other than 0 may get no digests.
  virtual Status RunDigests(const StepRecord& step, std::span<const float> scales, bool ahead,
                            std::vector<const RowDigest*>* digests) = 0;
  virtual int MostDigests() const = 0;
  // The same for tokens that the host has chosen from the digests of `step`, the step just run.
  virtual Status StartNext(const StepRecord& step, std::span<const int32_t> tokens) = 0;
  // Rows of the step just run, [rows, vocab_size]; not after `ahead` or StartNext. Valid until the next call.
  virtual Status ReadLogits(std::span<const int32_t> rows, std::span<float>* logits) = 0;

  // Bytes of weights that one decode step of one token reads, layers only, and those of the head: for floors.
  virtual int64_t layer_bytes_per_token() const = 0;
  virtual int64_t head_bytes() const = 0;
  // For benches: `steps` decode steps, each token the argmax of the step before (with random weights: a function of it
  // and the position, or all would soon be one token), chosen on the device, no host between steps. The first step is
  // `step`, whose sequences must have blocks for all of them. Returns seconds for the whole; *last_tokens the tokens of
  // the last step.
  virtual Result<double> DecodeOnDevice(const StepRecord& step, int steps, std::vector<int32_t>* last_tokens) = 0;
};

}  // namespace minimo::cuda

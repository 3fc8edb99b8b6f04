// What the layers of a model on several GPUs need of each other, enqueued on a stream (and so captured in graphs): sums
// of [tokens, hidden] after attention and after the experts, the two sums of the QK norm, the logits of rank 0. Sums go
// through peer memory, fused with the residual and the next norm; large ones of more than two GPUs, and those of GPUs
// that cannot reach each other, through NCCL.
//
// Thread rule: one caller at a time; every rank makes the same calls in the same order.
#pragma once

#include <memory>

#include "comm/nccl.h"
#include "cuda/peer_memory_cuda.h"
#include "layers/rank_share.h"
#include "spec/model_spec.h"

namespace minimo::cuda {

struct ExchangeOptions {
  int max_tokens = 0;
  int max_logit_rows = 0;
  int timeout_ms = kDefaultCommTimeoutMs;  // how long a silent rank is waited for
  bool peer_memory = true;                 // false: NCCL alone
  // Parts of steps with prompts cross rounded to bf16, where they are many: half the bytes, little beside e4m3.
  bool bf16_parts = false;
};

class Exchange {
 public:
  // Collective; `share.comm` has more than one rank and outlives this, the rank's device is current. Fails on every
  // rank if NCCL is missing on one.
  static Result<std::unique_ptr<Exchange>> Create(const ModelSpec& spec, const RankShare& share,
                                                  const ExchangeOptions& options);
  // Device memory that Create takes.
  static int64_t Bytes(const ModelSpec& spec, const RankShare& share, const ExchangeOptions& options);

  // As LaunchSumRows; p.peers is filled in here. prompts: of a step that is not one of decoding.
  Status SumRows(SumRowsParams p, bool f32_activations, bool prompts, cudaStream_t stream);
  // As LaunchSumNorms; p.peers likewise. The sums are those of norm_sums().
  Status SumNorms(SumNormsParams p, cudaStream_t stream);
  float* norm_sums() const { return norm_sums_.As<float>(); }

  // Where the head's product on this rank goes: [rows, vocab share].
  float* local_logits() const { return local_logits_.As<float>(); }
  // From there to `all` [rows, vocab] on rank 0.
  Status GatherLogits(int rows, float* all, cudaStream_t stream);
  // bytes of every rank to all [ranks][bytes], on every rank.
  Status AllGather(const void* mine, void* all, int64_t bytes, cudaStream_t stream);

  // Waits for the stream, or for the event; an error if a rank was silent for longer than the timeout, from then on.
  Status Finish(cudaStream_t stream);
  Status Finish(cudaEvent_t event);

  bool has_peer_memory() const { return peers_ != nullptr; }
  int ranks() const { return share_.comm->size(); }
  int vocab() const { return vocab_; }
  bool leads() const { return share_.comm->rank() == 0; }
  const RankShare& share() const { return share_; }

 private:
  bool SumsManyRows() const { return peers_ != nullptr && peers_->view().many_bytes > 0; }
  template <typename Query>
  Status WaitUntil(Query done);
  Exchange(const ModelSpec& spec, const RankShare& share, const ExchangeOptions& options)
      : hidden_(spec.hidden), vocab_(spec.vocab), share_(share), options_(options) {}

  int hidden_, vocab_;
  RankShare share_;
  ExchangeOptions options_;
  std::unique_ptr<NcclCommunicator> nccl_;
  std::unique_ptr<PeerMemory> peers_;
  DeviceMemory sums_;          // [max_tokens, hidden]: what NCCL adds up, where it does
  DeviceMemory norm_sums_;     // [max_tokens, 2]
  DeviceMemory local_logits_;  // [max_logit_rows, vocab share]
  DeviceMemory gathered_;      // rank 0: the other ranks' [max_logit_rows, vocab share], one after the other
};

}  // namespace minimo::cuda

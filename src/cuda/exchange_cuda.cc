#include "cuda/exchange_cuda.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "cuda/workspace_cuda.h"

namespace minimo::cuda {
namespace {

// Sums of more tokens cross without flags: through peer memory, where every rank sends its part to all others, and
// among more GPUs through NCCL, whose ring sends each no more (bench/results/all-reduce-h200.json).
constexpr int kPeerTokens = 128;
constexpr int kMostManyRanks = 2;

using Clock = std::chrono::steady_clock;

int64_t GatheredFloats(const ModelSpec& spec, const RankShare& share, int rows) {
  return share.comm->rank() == 0 ? rows * (spec.vocab - share.vocab.count) : 0;
}

// Packets for sums of kPeerTokens or the QK norm's two of any step; parts of all tokens of a step.
PeerMemory::Room RoomFor(const ModelSpec& spec, int ranks, const ExchangeOptions& options) {
  const int64_t tokens = std::min(kPeerTokens, options.max_tokens);
  PeerMemory::Room room;
  room.values = std::max(tokens * spec.hidden, int64_t{2} * options.max_tokens);
  if (ranks > kMostManyRanks || options.max_tokens <= kPeerTokens || spec.hidden % 8 != 0) return room;
  const int64_t decode = std::min(kMostDecodeTokens, options.max_tokens);  // always in float32
  room.many_bytes = spec.hidden * std::max(int64_t{options.max_tokens} * (options.bf16_parts ? 2 : 4), decode * 4);
  room.many_chunks = ManyChunks(options.max_tokens, spec.hidden);
  return room;
}

}  // namespace

int64_t Exchange::Bytes(const ModelSpec& spec, const RankShare& share, const ExchangeOptions& options) {
  const int ranks = share.comm->size();
  const PeerMemory::Room room = options.peer_memory ? RoomFor(spec, ranks, options) : PeerMemory::Room();
  const int64_t sums = room.many_bytes > 0 ? 0 : int64_t{options.max_tokens} * spec.hidden * 4;
  return PeerMemory::Bytes(ranks, room) + sums + int64_t{options.max_tokens} * 8 +
         (options.max_logit_rows * share.vocab.count + GatheredFloats(spec, share, options.max_logit_rows)) * 4;
}

Result<std::unique_ptr<Exchange>> Exchange::Create(const ModelSpec& spec, const RankShare& share,
                                                   const ExchangeOptions& options) {
  std::unique_ptr<Exchange> made(new Exchange(spec, share, options));
  MINIMO_ASSIGN(made->nccl_, NcclCommunicator::Create(*share.comm));
  if (options.peer_memory) {
    made->peers_ = std::make_unique<PeerMemory>();
    const Status reachable = made->peers_->Create(*share.comm, RoomFor(spec, share.comm->size(), options));
    if (reachable.ok()) {
      made->peers_->set_timeout_ms(options.timeout_ms);
    } else {
      if (share.comm->failed()) return share.comm->failure();
      LogInfo("all sums go through NCCL: {}", reachable.error().message);
      made->peers_.reset();
    }
  }
  if (!made->SumsManyRows()) MINIMO_TRY(made->sums_.Allocate(int64_t{options.max_tokens} * spec.hidden * 4));
  MINIMO_TRY(made->norm_sums_.Allocate(int64_t{options.max_tokens} * 8));
  MINIMO_TRY(made->local_logits_.Allocate(options.max_logit_rows * share.vocab.count * 4));
  MINIMO_TRY(made->gathered_.Allocate(GatheredFloats(spec, share, options.max_logit_rows) * 4));
  return made;
}

Status Exchange::SumRows(SumRowsParams p, bool f32_activations, bool prompts, cudaStream_t stream) {
  const int64_t count = int64_t{p.tokens} * p.hidden;
  if (peers_ != nullptr && p.tokens <= kPeerTokens) {
    p.peers = peers_->view();
    return ToStatus(LaunchSumRows(p, f32_activations, stream), "sum over ranks");
  }
  if (SumsManyRows()) {
    p.peers = peers_->view();
    return ToStatus(LaunchSumManyRows(p, prompts && options_.bf16_parts, f32_activations, stream), "sum over ranks");
  }
  MINIMO_CUDA_TRY(LaunchOwnPart(p, sums_.As<float>(), stream));
  MINIMO_TRY(nccl_->AllReduceSum(sums_.As(), count, nccl::DataType::kFloat32, stream));
  p.partial = sums_.As();
  p.partial_bf16 = false;
  p.slot_of = nullptr;
  p.top_k = 1;
  p.part = {};
  return ToStatus(LaunchSumRows(p, f32_activations, stream), "residual");
}

Status Exchange::SumNorms(SumNormsParams p, cudaStream_t stream) {
  p.sums = norm_sums();
  if (peers_ != nullptr) p.peers = peers_->view();
  MINIMO_CUDA_TRY(LaunchSumNorms(p, stream));
  if (peers_ != nullptr) return {};
  return nccl_->AllReduceSum(p.sums, int64_t{2} * p.tokens, nccl::DataType::kFloat32, stream);
}

Status Exchange::GatherLogits(int rows, float* all, cudaStream_t stream) {
  const int ranks = share_.comm->size(), rank = share_.comm->rank();
  std::vector<int64_t> send(ranks, 0), receive(ranks, 0);
  if (rank != 0) {
    send[0] = rows * share_.vocab.count * 4;
    return nccl_->AllToAllV(local_logits_.As(), send, nullptr, receive, stream);
  }
  for (int r = 1; r < ranks; ++r) receive[r] = rows * ShareOf(vocab_, ranks, r).count * 4;
  MINIMO_TRY(nccl_->AllToAllV(nullptr, send, gathered_.As(), receive, stream));
  int64_t at = 0;
  for (int r = 0; r < ranks; ++r) {
    const Range part = ShareOf(vocab_, ranks, r);
    const float* from = r == 0 ? local_logits() : gathered_.As<float>(at);
    MINIMO_CUDA_TRY(LaunchPlaceColumns(from, rows, static_cast<int>(part.count), all, static_cast<int>(part.begin),
                                       vocab_, stream));
    at += receive[r];
  }
  return {};
}

Status Exchange::AllGather(const void* mine, void* all, int64_t bytes, cudaStream_t stream) {
  return nccl_->AllGather(mine, all, bytes, nccl::DataType::kUint8, stream);
}

Status Exchange::Finish(cudaStream_t stream) {
  return WaitUntil([&] { return cudaStreamQuery(stream); });
}
Status Exchange::Finish(cudaEvent_t event) {
  return WaitUntil([&] { return cudaEventQuery(event); });
}

template <typename Query>
Status Exchange::WaitUntil(Query done) {
  // Past the kernels' own timeout: they give up first and say so.
  const auto deadline = Clock::now() + std::chrono::milliseconds(options_.timeout_ms) * 5 / 4;
  cudaError_t code;
  while ((code = done()) == cudaErrorNotReady) {
    if (Clock::now() < deadline) continue;
    nccl_->Abort();
    return Errorf("rank {} of {}: no answer from the other GPUs for {} ms", share_.comm->rank(), share_.comm->size(),
                  options_.timeout_ms);
  }
  MINIMO_TRY(ToStatus(code, "a step on several GPUs"));
  if (peers_ != nullptr && peers_->fault()) {
    return Errorf("rank {} of {}: another rank's GPU was silent for {} ms", share_.comm->rank(), share_.comm->size(),
                  options_.timeout_ms);
  }
  return nccl_->Check();
}

}  // namespace minimo::cuda

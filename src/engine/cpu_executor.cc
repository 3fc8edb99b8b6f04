#include "engine/cpu_executor.h"

#include <algorithm>
#include <new>

#include "base/error.h"
#include "layers/tile_weights.h"

namespace minimo {

namespace {

KvLayout WithGroupsOf(const ModelSpec& spec, KvLayout layout) {
  layout.groups = GroupKv(spec).groups;
  return layout;
}

}  // namespace

CpuExecutor::CpuExecutor(RankModel model, const KvLayout& layout, DType kv_dtype, int threads,
                         std::vector<NumaNode> nodes)
    : model_(std::move(model)),
      team_(threads),
      decoder_(model_.spec, model_.weights, team_, model_.share),
      kv_(GroupKv(model_.spec), WithGroupsOf(model_.spec, layout), kv_dtype) {
  if (!model_.share.alone()) return;
  if (nodes.size() < 2) {
    team_.PinWorkers();
    return;
  }
  kv_.Interleave(nodes);
  team_.SpreadOver(std::move(nodes));
}

Result<std::unique_ptr<CpuExecutor>> CpuExecutor::Create(const LoadedModel& model, const KvLayout& layout,
                                                         DType kv_dtype, int threads) {
  return CreateRank(model, {}, nullptr, layout, kv_dtype, threads);
}

Result<std::unique_ptr<CpuExecutor>> CpuExecutor::CreateRank(const LoadedModel& model, const ParallelPlan& plan,
                                                             Communicator* comm, const KvLayout& layout,
                                                             DType kv_dtype, int threads,
                                                             std::vector<NumaNode> nodes) {
  MINIMO_ASSIGN(RankModel part, ShardModel(model, plan, comm));
  try {
    std::unique_ptr<CpuExecutor> executor(
        new CpuExecutor(std::move(part), layout, kv_dtype, threads, std::move(nodes)));
    // Dummy weights are memory of ours, files only pages of a cache; ranks of one process read the same ones.
    const SourceBytes source = model.dummy && plan.ranks == 1 ? SourceBytes::kDrop : SourceBytes::kKeep;
    DecoderWeights* weights = &executor->model_.weights;
    if (model.activations == Activations::kInt8) {
      MINIMO_TRY(TileWeights(weights, source, executor->team_));
    } else {
      if (model.resident || model.dummy) MINIMO_TRY(TileExactly(weights, source, executor->team_));
      if (!model.dummy) executor->toucher_.emplace(*weights);
    }
    return executor;
  } catch (const std::bad_alloc&) {
    return Errorf("the KV cache of {} blocks and {} rings takes {} bytes, more memory than there is; ask for less",
                  layout.num_blocks, layout.num_rings,
                  layout.num_blocks * layout.BytesPerBlock() + layout.num_rings * layout.BytesPerRing());
  }
}

Status CpuExecutor::Run(const StepRecord& step, StepOutput* output) {
  const bool alone = model_.share.alone();
  if (!alone && !step.row_requests.empty()) {
    MINIMO_TRY(decoder_.ForwardLocal(step, kv_));
    std::vector<int32_t> whole;
    for (size_t row = 0; row < step.row_requests.size(); ++row) {
      if (step.row_requests[row].candidates == 0) whole.push_back(static_cast<int32_t>(row));
    }
    output->logits = {};
    if (!whole.empty()) MINIMO_TRY(FetchLogits(whole, output));
    return GatherCandidates(step.row_requests, output);
  }
  const int rows = alone || model_.share.comm->rank() == 0 ? step.NumLogits() : 0;
  logits_.resize(static_cast<size_t>(rows) * static_cast<size_t>(model_.spec.vocab));
  MINIMO_TRY(decoder_.Forward(step, kv_, logits_.data(), nullptr));
  output->logits = logits_;
  return {};
}

Status CpuExecutor::FetchLogits(std::span<const int32_t> rows, StepOutput* output) {
  const size_t count = model_.share.comm->rank() == 0 ? rows.size() : 0;
  logits_.resize(count * static_cast<size_t>(model_.spec.vocab));
  MINIMO_TRY(decoder_.GatherLogits(rows, logits_.data()));
  output->logits = logits_;
  return {};
}

Status CpuExecutor::GatherCandidates(std::span<const RowRequest> requests, StepOutput* output) {
  Communicator& comm = *model_.share.comm;
  const int ranks = comm.size();
  const bool first = comm.rank() == 0;
  std::vector<CandidateNeed> needs;
  for (const RowRequest& r : requests) needs.push_back({r.candidates, r.temperature});
  std::vector<size_t> parts(ranks);
  std::vector<int64_t> send(ranks, 0), receive(ranks, 0);
  for (int r = 0; r < ranks; ++r) {
    parts[r] = static_cast<size_t>(ShareOf(model_.spec.vocab, ranks, r).count);
    for (const CandidateNeed& need : needs) {
      receive[r] += need.count > 0 ? static_cast<int64_t>(CandidateBytes(need, parts[r])) : 0;
    }
  }
  send[0] = receive[comm.rank()];
  sent_.resize(static_cast<size_t>(send[0]));
  size_t at = 0;
  const size_t mine = parts[comm.rank()];
  for (size_t row = 0; row < needs.size(); ++row) {
    if (needs[row].count == 0) continue;
    PutCandidates(decoder_.local_logits().subspan(row * mine, mine), static_cast<int32_t>(model_.share.vocab.begin),
                  needs[row], &scratch_, sent_.data() + at);
    at += CandidateBytes(needs[row], mine);
  }
  if (!first) std::fill(receive.begin(), receive.end(), 0);
  int64_t all = 0;
  for (const int64_t bytes : receive) all += bytes;
  received_.resize(static_cast<size_t>(all));
  MINIMO_TRY(comm.AllToAllV<std::byte>(sent_, send, received_, receive));
  output->candidates.clear();
  if (!first) return {};
  std::vector<const std::byte*> from(ranks, received_.data());
  for (int r = 1; r < ranks; ++r) from[r] = from[r - 1] + receive[r - 1];
  for (const CandidateNeed& need : needs) {
    if (need.count == 0) continue;
    output->candidates.push_back(MergeCandidates(from, parts, need));
    for (int r = 0; r < ranks; ++r) from[r] += CandidateBytes(need, parts[r]);
  }
  return {};
}

Engine::ExpertLoad CpuExecutor::GetExpertLoad() const {
  Engine::ExpertLoad load;
  load.experts = model_.spec.moe.experts;
  for (size_t i = 0; i < model_.spec.layers.size(); ++i) {
    if (!model_.spec.layers[i].moe) continue;
    const std::vector<int64_t>& counts = decoder_.expert_load()[i];
    load.counts.insert(load.counts.end(), counts.begin(), counts.end());
    ++load.layers;
  }
  return load;
}

}  // namespace minimo

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>

#include "base/check.h"
#include "base/log.h"
#include "cuda/cuda_executor.h"
#include "cuda/device_cuda.h"
#include "cuda/device_digests_cuda.h"
#include "cuda/executor_plan_cuda.h"
#include "cuda/fault_cuda.h"
#include "cuda/forward_cuda.h"
#include "cuda/routing_probe_cuda.h"
#include "cuda/step_ahead.h"
#include "cuda/step_plan.h"
#include "cuda/step_times_cuda.h"
#include "kv/replica_step.h"

namespace minimo::cuda {
namespace {

constexpr int kFirstTableEntries = 1 << 16;

class CudaExecutorImpl final : public CudaExecutor {
 public:
  CudaExecutorImpl(const ModelSpec& spec, const KvLayout& layout, const CudaOptions& options, DeviceWeights weights)
      : spec_(spec), layout_(layout), options_(options), weights_(std::move(weights)),
        fp8_prefill_(UsesFp8Prefill(options, weights_)),
        workspace_(spec_, options.f32, fp8_prefill_, options.max_tokens, LogitRows(options)) {
    step_layout_.max_tokens = options.max_tokens;
    for (const LayerSpec& l : spec_.layers) {
      const int group = l.attention.heads / l.attention.kv_heads;
      if (std::find(step_layout_.groups.begin(), step_layout_.groups.end(), group) == step_layout_.groups.end()) {
        step_layout_.groups.push_back(group);
      }
    }
    // Decode steps carry one token a sequence: a layout of its own keeps their copy short.
    decode_layout_ = step_layout_;
    decode_layout_.max_tokens = LogitRows(options);
  }
  ~CudaExecutorImpl() override {
    cudaDeviceSynchronize();
    ForgetGraphs();
    times_.Log();
  }

  Status Load(const DecoderWeights* weights, ThreadTeam& team) {
    MINIMO_TRY(stream_.Create());
    MINIMO_TRY(times_.Create());
    if (options_.share != nullptr) {
      MINIMO_ASSIGN(exchange_, Exchange::Create(spec_, *options_.share, ExchangeOf(options_, fp8_prefill_)));
    }
    MINIMO_TRY(weights_.Fill(weights, &team, stream_.get()));
    MINIMO_TRY(kv_.Allocate(spec_, layout_));
    MINIMO_TRY(workspace_.Allocate());
    const float* logits = exchange_ ? exchange_->local_logits() : workspace_.At<float>(workspace_.logits);
    const int vocab = exchange_ ? static_cast<int>(options_.share->vocab.count) : spec_.vocab;
    MINIMO_TRY(digests_.Allocate(LogitRows(options_), vocab, logits, exchange_.get()));
    MINIMO_TRY(host_logits_.Allocate(int64_t{LogitRows(options_)} * spec_.vocab * 4));
    if (options_.probe_routing) {
      probe_ = std::make_unique<RoutingProbe>();
      MINIMO_TRY(probe_->Create(spec_, *weights, options_.max_tokens));
    }
    if (weights_.hybrid()) {
      decode_phase_ = std::make_unique<DecodePhase>(spec_, weights_, options_);
      MINIMO_TRY(decode_phase_->workspace.Allocate());
    }
    for (const bool decode : {false, true}) {
      const DecodePhase* other = decode ? decode_phase_.get() : nullptr;
      forward_[decode] = std::make_unique<Forward>(
          other != nullptr ? other->spec : spec_, other != nullptr ? other->weights : weights_, kv_,
          other != nullptr ? other->workspace : workspace_, decode ? decode_layout_ : step_layout_, options_.f32,
          fp8_prefill_, exchange_.get(), probe_.get());
      MINIMO_TRY(forward_[decode]->Prepare(stream_.get()));
      MINIMO_TRY(ReservePacked(decode, LayoutOf(decode).BlockTables() + kFirstTableEntries));
    }
    return ToStatus(cudaDeviceSynchronize(), "start-up");
  }

  const KvLayout& kv_layout() const override { return layout_; }
  int vocab_size() const override { return spec_.vocab; }
  int64_t layer_bytes_per_token() const override {
    return decode_phase_ ? decode_phase_->weights.BytesPerToken() : weights_.BytesPerToken();
  }
  int64_t head_bytes() const override { return weights_.HeadBytes(); }

  Status Run(const StepRecord& step, std::span<float>* output) override {
    MINIMO_TRY(Start(step));
    MINIMO_TRY(FaultAtStep());
    bool graph = false;
    if (decode_) {
      MINIMO_ASSIGN(graph, RunGraph());
    }
    const int rows = plan_.logit_rows, most = LogitRows(options_);
    if (!graph) MINIMO_TRY(Layers());
    if (rows > most) logits_.resize(static_cast<size_t>(rows) * spec_.vocab);
    for (int first = 0; first < rows; first += most) {
      const int count = std::min(most, rows - first);
      if (!graph) MINIMO_TRY(forward_[decode_]->Head(Packed(), plan_.tokens, first, count, stream_.get()));
      MINIMO_TRY(GatherLogits(count));
      if (!Leads()) continue;
      const size_t bytes = static_cast<size_t>(count) * spec_.vocab * 4;
      MINIMO_CUDA_TRY(cudaMemcpyAsync(host_logits_.As(), workspace_.At(workspace_.logits), bytes,
                                      cudaMemcpyDeviceToHost, stream_.get()));
      if (rows > most) {
        MINIMO_TRY(Finish());
        std::memcpy(logits_.data() + static_cast<size_t>(first) * spec_.vocab, host_logits_.As(), bytes);
      }
    }
    MINIMO_TRY(Copies(OwnOf(step).ring_snapshots, true));
    MINIMO_TRY(times_.End(slot_, stream_.get()));
    MINIMO_TRY(Finish());
    times_.Ended(slot_);
    *output = {};
    if (!Leads()) return {};
    float* logits = rows > most ? logits_.data() : host_logits_.As<float>();
    *output = {logits, static_cast<size_t>(rows) * spec_.vocab};
    return {};
  }

  int MostDigests() const override { return LogitRows(options_); }

  Status RunDigests(const StepRecord& step, std::span<const float> scales, bool ahead,
                    std::vector<const RowDigest*>* digests) override {
    MINIMO_CUDA_TRY(cudaSetDevice(options_.device));
    CHECK(scales.size() <= static_cast<size_t>(MostDigests()));
    const size_t ahead_rows = ahead_.tokens.size();
    const bool found =
        ahead_.running && IsPartOf(step, ahead_.step, ahead_.tokens, layout_.block_size, &rows_);
    if (!found) {
      MINIMO_TRY(Start(step));
      MINIMO_TRY(digests_.SendScales(scales, stream_.get()));
      MINIMO_TRY(Compute());
      MINIMO_TRY(Copies(OwnOf(step).ring_snapshots, true));
      rows_.resize(scales.size());
      std::iota(rows_.begin(), rows_.end(), 0);
    }
    ahead_.running = false;
    const int slot = slot_;
    ahead = ahead && (!found || rows_.size() == ahead_rows);
    if (ahead) MINIMO_TRY(StartAhead(step, {}));
    MINIMO_TRY(digests_.Wait(slot));
    times_.Ended(slot);
    digests->clear();
    if (!Leads() && !ahead_.running) return {};  // else every rank must know what the device chose
    for (const int32_t row : rows_) digests->push_back(digests_.Row(slot, row));
    if (ahead_.running) {
      for (size_t i = 0; i < rows_.size(); ++i) ahead_.tokens[i] = (*digests)[i]->argmax;
    }
    return {};
  }

  Status StartNext(const StepRecord& step, std::span<const int32_t> tokens) override {
    const bool whole = rows_.size() == static_cast<size_t>(plan_.tokens) && tokens.size() == rows_.size();
    return ahead_.running || !whole ? Status() : StartAhead(step, tokens);
  }

  Status ReadLogits(std::span<const int32_t> rows, std::span<float>* logits) override {
    if (ahead_.running) return Error{"the logits of this step are gone: the next one has begun"};
    const auto vocab = static_cast<size_t>(spec_.vocab);
    MINIMO_TRY(GatherLogits(plan_.logit_rows));
    for (size_t i = 0; Leads() && i < rows.size(); ++i) {
      const auto row = static_cast<size_t>(rows_[static_cast<size_t>(rows[i])]);
      MINIMO_CUDA_TRY(cudaMemcpyAsync(host_logits_.As<float>() + i * vocab,
                                      workspace_.At<float>(workspace_.logits) + row * vocab, vocab * 4,
                                      cudaMemcpyDeviceToHost, stream_.get()));
    }
    MINIMO_TRY(Finish());
    *logits = {host_logits_.As<float>(), Leads() ? rows.size() * vocab : 0};
    return {};
  }

  CudaExpertLoad GetExpertLoad() const override {
    CudaExpertLoad load;
    load.experts = spec_.moe.experts;
    std::vector<int64_t> counts(static_cast<size_t>(spec_.num_layers()) * load.experts);
    std::vector<const Workspace*> workspaces = {&workspace_};
    if (decode_phase_) workspaces.push_back(&decode_phase_->workspace);
    for (const Workspace* w : workspaces) {
      std::vector<int64_t> part(counts.size());
      const cudaError_t copied = cudaMemcpy(part.data(), w->At(w->expert_load), part.size() * sizeof(int64_t),
                                            cudaMemcpyDeviceToHost);
      if (copied != cudaSuccess) return {};
      std::transform(part.begin(), part.end(), counts.begin(), counts.begin(), std::plus<>());
    }
    for (int i = 0; i < spec_.num_layers(); ++i) {
      if (!spec_.layers[i].moe) continue;
      const auto first = counts.begin() + int64_t{i} * load.experts;
      load.counts.insert(load.counts.end(), first, first + load.experts);
      ++load.layers;
    }
    return load;
  }

  Result<std::vector<int32_t>> Choices() const override {
    CHECK(probe_ != nullptr);
    return probe_->Choices(plan_.tokens);
  }
  Status Favour(std::span<const int32_t> choices, float by) override {
    CHECK(probe_ != nullptr);
    return probe_->Favour(choices, by);
  }

  Result<double> DecodeOnDevice(const StepRecord& step, int steps, std::vector<int32_t>* last_tokens) override {
    MINIMO_TRY(Start(step));
    if (!decode_) return Errorf("decoding on the device needs one token a sequence");
    const auto enqueue = [&]() -> Status {
      MINIMO_TRY(Layers());
      MINIMO_TRY(forward_[1]->Head(Packed(), plan_.tokens, 0, plan_.tokens, stream_.get()));
      return Advance();
    };
    MINIMO_ASSIGN(const cudaGraphExec_t graph, Capture(enqueue));
    Event begin, end;
    MINIMO_TRY(begin.Create(true));
    MINIMO_TRY(end.Create(true));
    MINIMO_CUDA_TRY(cudaEventRecord(begin.get(), stream_.get()));
    for (int i = 0; i < steps; ++i) MINIMO_CUDA_TRY(cudaGraphLaunch(graph, stream_.get()));
    MINIMO_CUDA_TRY(cudaEventRecord(end.get(), stream_.get()));
    last_tokens->resize(static_cast<size_t>(plan_.tokens));
    MINIMO_CUDA_TRY(cudaMemcpyAsync(last_tokens->data(), Packed() + decode_layout_.TokenIds(), last_tokens->size() * 4,
                                    cudaMemcpyDeviceToHost, stream_.get()));
    MINIMO_TRY(Finish());
    float ms = 0;
    MINIMO_CUDA_TRY(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    MINIMO_CUDA_TRY(cudaGraphExecDestroy(graph));
    return ms * 1e-3;
  }

 private:
  const StepLayout& LayoutOf(bool decode) const { return decode ? decode_layout_ : step_layout_; }
  int32_t* Packed() const { return packed_[decode_].As<int32_t>(); }

  Status ReservePacked(bool decode, int64_t words) {
    if (packed_[decode].bytes() >= words * 4) return {};
    if (decode) ForgetGraphs();  // they hold the old addresses
    MINIMO_TRY(packed_[decode].Allocate(words * 4));
    for (HostMemory& host : host_packed_[decode]) MINIMO_TRY(host.Allocate(words * 4));
    return {};
  }

  // Plans the step, sends it, does the copies that come before it.
  Status Start(const StepRecord& step) {
    MINIMO_CUDA_TRY(cudaSetDevice(options_.device));  // the engine's thread is not the one that made this
    if (ahead_.running) {  // nobody asked for it
      ahead_.running = false;
      MINIMO_TRY(digests_.Wait(slot_));
    }
    decode_ = step.tokens.size() == step.sequences.size() &&
              step.tokens.size() <= static_cast<size_t>(decode_layout_.max_tokens);
    MINIMO_TRY(Plan(step));
    if (decode_ && !plan_.one_token_each) {
      decode_ = false;
      MINIMO_TRY(Plan(step));
    }
    const auto words = static_cast<int64_t>(plan_.packed.size());
    if (words * 4 > packed_[decode_].bytes()) MINIMO_TRY(ReservePacked(decode_, words + words / 2));
    MINIMO_TRY(SendPacked(0));
    const StepRecord& own = OwnOf(step);
    MINIMO_TRY(Copies(own.block_copies, false));
    return Copies(own.ring_restores, true);
  }

  Status Plan(const StepRecord& step) {
    return PlanStep(step, LayoutOf(decode_), spec_.vocab, layout_.num_blocks, layout_.num_rings, &plan_,
                    options_.share != nullptr ? options_.share->replica() : 0);
  }

  // What concerns this rank's blocks and rings.
  const StepRecord& OwnOf(const StepRecord& step) {
    if (options_.share == nullptr || options_.share->replicas == 1) return step;
    TakeReplica(step, options_.share->replica(), &own_);
    return own_;
  }

  // The plan from word `first` on. Two buffers take turns: at most one step is begun before its predecessor has ended.
  Status SendPacked(int64_t first) {
    slot_ ^= 1;
    MINIMO_TRY(times_.Begin(slot_, decode_, plan_.tokens, stream_.get()));
    const HostMemory& host = host_packed_[decode_][slot_];
    const size_t bytes = (plan_.packed.size() - static_cast<size_t>(first)) * 4;
    std::memcpy(host.As(), plan_.packed.data() + first, bytes);
    return ToStatus(cudaMemcpyAsync(Packed() + first, host.As(), bytes, cudaMemcpyHostToDevice, stream_.get()),
                    "sending a step");
  }

  Status Digest() {
    return digests_.Make(plan_.logit_rows, decode_ ? Packed() + decode_layout_.TokenIds() : nullptr, stream_.get());
  }

  // The planned step, and its digests on their way to the host's slot.
  Status Compute() {
    MINIMO_TRY(FaultAtStep());
    bool graph = false;
    if (decode_) {
      MINIMO_ASSIGN(graph, RunGraph());
    }
    const int rows = plan_.logit_rows;
    if (!graph) {
      MINIMO_TRY(Layers());
      if (rows > 0) MINIMO_TRY(forward_[decode_]->Head(Packed(), plan_.tokens, 0, rows, stream_.get()));
      if (rows > 0) MINIMO_TRY(Digest());
    }
    MINIMO_TRY(digests_.Send(slot_, rows, stream_.get()));
    return times_.End(slot_, stream_.get());
  }

  // The step after `step`, which was sent last, if it can be begun; tokens: empty if the device has just chosen them.
  Status StartAhead(const StepRecord& step, std::span<const int32_t> tokens) {
    if (!decode_ || !NextStep(step, layout_, &ahead_.step)) return {};
    std::copy(tokens.begin(), tokens.end(), ahead_.step.tokens.begin());
    MINIMO_TRY(Plan(ahead_.step));
    if (static_cast<int64_t>(plan_.packed.size()) * 4 > packed_[1].bytes()) return {};
    ahead_.tokens = ahead_.step.tokens;
    ahead_.running = true;
    MINIMO_TRY(SendPacked(tokens.empty() ? decode_layout_.Positions() : 0));
    return Compute();
  }

  // A test's switch: a kernel that traps, in the middle of serving.
  Status FaultAtStep() {
    if (!FaultDue(Fault::kStep)) return {};
    return ToStatus(LaunchTrap(stream_.get()), "a kernel that traps, as MINIMO_CUDA_FAULT asks");
  }

  // Of several ranks: the first `count` rows of logits, whole, on rank 0.
  Status GatherLogits(int count) {
    if (exchange_ == nullptr) return {};
    return exchange_->GatherLogits(count, workspace_.At<float>(workspace_.logits), stream_.get());
  }

  bool Leads() const { return exchange_ == nullptr || exchange_->leads(); }
  Status Finish() {
    return exchange_ ? exchange_->Finish(stream_.get()) : ToStatus(cudaStreamSynchronize(stream_.get()), "a step");
  }

  int Splits() const { return plan_.singles > 0 ? DecodeSplits(spec_, plan_.singles, plan_.longest_single) : 1; }

  Status Layers() {
    return forward_[decode_]->Layers(Packed(), plan_, decode_, Splits(), stream_.get());
  }

  Status Copies(const std::vector<CacheCopy>& copies, bool rings) {
    if (copies.empty()) return {};
    std::vector<int32_t> ids;
    for (const CacheCopy& c : copies) ids.push_back(c.from);
    for (const CacheCopy& c : copies) ids.push_back(c.to);
    const int count = static_cast<int>(copies.size());
    const int64_t bytes = static_cast<int64_t>(ids.size()) * 4;
    DeviceMemory& to = copy_ids_[rings];
    MINIMO_CUDA_TRY(cudaStreamSynchronize(stream_.get()));  // an earlier list may be in use
    if (to.bytes() < bytes) MINIMO_TRY(to.Allocate(bytes * 2));
    MINIMO_CUDA_TRY(cudaMemcpyAsync(to.As(), ids.data(), static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                                    stream_.get()));
    for (int i = 0; i < spec_.num_layers(); ++i) {
      if (kv_.k(i).ring != rings) continue;
      for (const KvView& view : {kv_.k(i), kv_.v(i)}) {
        MINIMO_CUDA_TRY(LaunchCacheCopy(view, to.As<int>(), to.As<int>() + count, count,
                                        stream_.get()));
      }
    }
    return {};
  }

  template <typename Enqueue>
  Result<cudaGraphExec_t> Capture(Enqueue enqueue) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    MINIMO_CUDA_TRY(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
    const Status enqueued = enqueue();
    const Status ended = ToStatus(cudaStreamEndCapture(stream_.get(), &graph), "graph capture");
    MINIMO_TRY(enqueued);
    MINIMO_TRY(ended);
    const Status made = ToStatus(cudaGraphInstantiate(&exec, graph, 0), "graph instantiation");
    cudaGraphDestroy(graph);
    MINIMO_TRY(made);
    return exec;
  }

  // Runs the decode step as a graph if one of its kind was seen before; false: not run.
  Result<bool> RunGraph() {
    if (!options_.graphs) return false;
    GraphKind key = {plan_.tokens, Splits()};
    for (const StepPlan::Rows& rows : plan_.replicas) key.push_back(rows.count);
    int& seen = seen_[key];
    if (seen++ == 0) return false;  // making a graph costs more than one step gains
    auto found = graphs_.find(key);
    if (found == graphs_.end()) {
      const auto graph = Capture([&]() -> Status {
        MINIMO_TRY(Layers());
        MINIMO_TRY(forward_[1]->Head(Packed(), plan_.tokens, 0, plan_.tokens, stream_.get()));
        return Digest();
      });
      if (!graph.ok()) {  // out of memory, say: the step runs without
        LogWarn("decode steps are launched kernel by kernel from here on: {}", graph.error().message);
        options_.graphs = false;
        return false;
      }
      found = graphs_.emplace(key, *graph).first;
    }
    MINIMO_CUDA_TRY(cudaGraphLaunch(found->second, stream_.get()));
    return true;
  }

  void ForgetGraphs() {
    for (const auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph);
    graphs_.clear();
  }

  Status Advance() {
    RowDigestParams p = digests_.Params(plan_.tokens);
    p.token = Packed() + decode_layout_.TokenIds();
    p.scramble = options_.random_weights;
    p.position = Packed() + decode_layout_.Positions();
    p.past = Packed() + decode_layout_.Past();
    p.last = Packed() + decode_layout_.Last();
    return digests_.Launch(p, stream_.get());
  }

  ModelSpec spec_;
  KvLayout layout_;
  CudaOptions options_;
  Stream stream_;
  std::unique_ptr<Exchange> exchange_;  // null: one device
  DeviceWeights weights_;
  DeviceKv kv_;
  bool fp8_prefill_;
  Workspace workspace_;
  std::unique_ptr<RoutingProbe> probe_;  // null: not asked for
  std::unique_ptr<DecodePhase> decode_phase_;  // null: decode steps have what prefill has
  StepLayout step_layout_, decode_layout_;
  std::unique_ptr<Forward> forward_[2];  // [decode]
  StepPlan plan_;
  StepRecord own_;  // of several replicas of attention: this rank's part of the step
  bool decode_ = false;
  int slot_ = 0;  // of the step begun last
  HostMemory host_packed_[2][2];  // [decode][slot]
  DeviceMemory packed_[2];
  DeviceMemory copy_ids_[2];  // [rings]
  HostMemory host_logits_;
  DeviceDigests digests_;
  StepTimes times_;
  std::vector<int32_t> rows_;  // of the step's sequences, in what was computed
  // The step that was begun before it was asked for.
  struct {
    bool running = false;
    StepRecord step;
    std::vector<int32_t> tokens;
  } ahead_;
  std::vector<float> logits_;
  using GraphKind = std::vector<int>;  // tokens, splits, tokens of each replica of attention
  std::map<GraphKind, int> seen_;        // decode steps so far
  std::map<GraphKind, cudaGraphExec_t> graphs_;
};

}  // namespace

Result<std::unique_ptr<CudaExecutor>> CudaExecutor::Create(const ModelSpec& spec, const DecoderWeights* weights,
                                                           const KvLayout& layout, const CudaOptions& options,
                                                           ThreadTeam& team) {
  MINIMO_ASSIGN(DeviceWeights plan,
                DeviceWeights::Plan(spec, weights, WeightsOf(options), options.share, options.decode_experts));
  // Together, or ranks that are well would wait inside NCCL for those that are not.
  MINIMO_TRY(AgreeOn(options.share != nullptr ? options.share->comm : nullptr,
                     CheckFits(spec, weights, layout, options, plan)));
  auto executor = std::make_unique<CudaExecutorImpl>(spec, layout, options, std::move(plan));
  MINIMO_TRY(executor->Load(weights, team));
  return std::unique_ptr<CudaExecutor>(std::move(executor));
}

}  // namespace minimo::cuda

// Checks and measures the CUDA backend on several GPUs, one process each: mpirun -n N gpu_ranks_check ...
// or on one GPU that all ranks share, N threads or under mpirun processes: gpu_ranks_check one N ..., which needs
// MINIMO_NCCL_LIBRARY=libnccl_one_gpu.so and where times say nothing
//   golden SHARED MODELS [bf16|EXPERTS]   every golden checkpoint and the nano models' greedy text, in TP, EP, TPxEP,
//                          by phase and with replicas of attention, sums through peer memory and through NCCL; or TP in
//                          bf16 alone, or one layout in f32
//   real                   a few layers of the real shapes against one CPU: prompts in bf16 and in FP8, then decoding
//   decode MODEL LAYERS FORMAT EXPERTS PEER BATCHES CONTEXT   random weights: time a step. EXPERTS: tp, ep, TxE, or
//                          prefill's and decode's as ep+tp; dp2:ep: two replicas of attention; PEER: peer or nccl
//   prefill MODEL LAYERS FORMAT EXPERTS PEER TOKENS ACTIVATIONS   bf16 or fp8
// Rank 0 prints JSON lines; exits 1 if a check fails.
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/error.h"
#include "base/thread_team.h"
#include "checkpoint/safetensors.h"
#include "comm/mpi.h"
#include "comm/threads.h"
#include "cuda/cuda_executor.h"
#include "cuda/device_part.h"
#include "engine/cpu_executor.h"
#include "kv/replica_step.h"
#include "models/loader.h"
#include "tests/gpu/check_support.h"
#include "tests/gpu/synthetic_model.h"

namespace minimo::testing {
namespace {

using cuda::CudaExecutor;
using cuda::CudaOptions;
using cuda::DevicePart;

bool g_one_gpu = false;

struct RankExecutor {
  std::unique_ptr<DevicePart> part;
  std::unique_ptr<CudaExecutor> executor;
  KvLayout layout;
};

struct Setting {
  std::string experts = "tp";
  bool f32 = false;
  bool peer = true;
  bool fp8_prefill = false;
  int max_tokens = 1024;
  int sequences = 1, tokens_each = 1024;
  int int4_group = 0;  // random weights
  bool random = false;
  int replicas() const { return experts.starts_with("dp") ? std::stoi(experts.substr(2)) : 1; }
};

Result<RankExecutor> Make(Communicator& comm, const LoadedModel& model, const Setting& s, ThreadTeam& team) {
  ParallelFlags flags;
  const size_t colon = s.experts.find(':');
  const std::string experts = colon == std::string::npos ? s.experts : s.experts.substr(colon + 1);
  flags.data_parallel_size = s.replicas();
  flags.tensor_parallel_size = comm.size() / s.replicas();
  const size_t plus = experts.find('+');  // "ep+tp": prefill's and decode's
  flags.moe_prefill = experts.substr(0, plus);
  flags.moe_decode = plus == std::string::npos ? experts : experts.substr(plus + 1);
  MINIMO_ASSIGN(const ParallelPlan plan, PlanRanks(model.spec, flags, 1));
  MINIMO_ASSIGN(DevicePart part, cuda::MakeDevicePart(model, plan, &comm, std::max(1, s.int4_group)));
  RankExecutor made;
  made.part = std::make_unique<DevicePart>(std::move(part));
  CudaOptions options;
  options.device = g_one_gpu ? 0 : comm.rank();
  if (g_one_gpu) options.rank_timeout_ms = 3000;  // so that a hang is said before a job's time is over
  options.f32 = s.f32;
  options.fp8_prefill = s.fp8_prefill;
  options.max_tokens = s.max_tokens;
  options.share = &made.part->share;
  if (made.part->decode_experts) options.decode_experts = &*made.part->decode_experts;
  options.peer_memory = s.peer;
  options.random_weights = s.random;
  options.random_int4_group = s.int4_group;
  options.random_fp8_head = s.int4_group > 0;
  made.layout = LayoutFor(made.part->spec, s.f32, s.sequences, s.tokens_each);
  MINIMO_ASSIGN(made.executor, CudaExecutor::Create(made.part->spec, s.random ? nullptr : &made.part->weights,
                                                    made.layout, options, team));
  MINIMO_TRY(comm.Barrier());  // threads on one device: who loads waits for all that runs there
  return made;
}

// A sequence for each replica of attention; each has its logits to itself. One that is through has nothing to run.
Result<std::vector<std::vector<float>>> AllLogits(RankExecutor& e, const std::vector<std::vector<int32_t>>& ids,
                                                  size_t chunk) {
  std::vector<std::vector<float>> logits(ids.size());
  size_t longest = 0;
  for (const auto& sequence : ids) longest = std::max(longest, sequence.size());
  for (size_t at = 0; at < longest; at += chunk) {
    StepRecord step;
    for (const auto& sequence : ids) {
      const size_t n = at < sequence.size() ? std::min(chunk, sequence.size() - at) : 0;
      const auto tokens = static_cast<int>(n), length = static_cast<int>(sequence.size());
      const StepRecord part = MakeStep(e.layout, n > 0, static_cast<int>(at), tokens, length, tokens,
                                       {sequence.data() + at, n});
      if (ids.size() == 1) {
        step = part;
      } else {
        AppendReplica(part, &step);
      }
    }
    std::span<float> out;
    MINIMO_TRY(e.executor->Run(step, &out));
    if (out.empty()) continue;  // not rank 0
    const size_t vocab = out.size() / static_cast<size_t>(step.NumLogits());
    for (size_t i = 0, row = 0; i < ids.size(); ++i) {
      const size_t n = at < ids[i].size() ? std::min(chunk, ids[i].size() - at) : 0;
      logits[i].insert(logits[i].end(), out.begin() + row * vocab, out.begin() + (row + n) * vocab);
      row += n;
    }
  }
  return logits;
}

Json Where(Communicator& comm, const std::string& name, const Setting& s) {
  return {{"model", name}, {"gpus", comm.size()}, {"experts", s.experts}, {"dtype", s.f32 ? "f32" : "bf16"},
          {"sums", s.peer ? "peer memory" : "nccl"}};
}

void CheckOn0(Communicator& comm, Json line, bool ok) {
  if (comm.rank() == 0) Check(std::move(line), ok);
}

// Greedy continuations of the cases, tokens chosen by rank 0 and told to all.
Status CheckGreedy(Communicator& comm, RankExecutor& e, const std::string& cases, const Json& where, bool f32,
                   int replicas) {
  std::FILE* f = std::fopen(cases.c_str(), "rb");
  if (f == nullptr) return {};
  std::string text(size_t{1} << 22, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), f));
  std::fclose(f);
  const auto json = Json::parse(text, nullptr, false);
  size_t all = 0, equal = 0, tokens = 0;
  double worst_gap = 0;
  for (const auto& c : json.is_array() ? json : json.value("cases", Json::array())) {
    if (!c.contains("greedy_ids")) continue;
    const auto prompt = c["prompt_ids"].get<std::vector<int32_t>>();
    const auto expected = c["greedy_ids"].get<std::vector<int32_t>>();
    std::vector<int32_t> next = prompt;
    int past = 0;
    bool same = true;
    for (const int32_t want : expected) {
      std::span<float> out;
      const StepRecord part = MakeStep(e.layout, 1, past, static_cast<int>(next.size()),
                                       static_cast<int>(prompt.size() + expected.size()), 1, next);
      StepRecord step = part;
      if (replicas > 1) {  // texts alternate between the first and the last; all others have nothing to run
        step = {};
        const int where = all % 2 == 0 ? replicas - 1 : 0;
        for (int r = 0; r < replicas; ++r) AppendReplica(r == where ? part : StepRecord(), &step);
      }
      MINIMO_TRY(e.executor->Run(step, &out));
      past += static_cast<int>(next.size());
      int32_t got = 0;
      if (comm.rank() == 0) {
        got = static_cast<int32_t>(std::max_element(out.begin(), out.end()) - out.begin());
        if (got != want) worst_gap = std::max(worst_gap, double{out[got]} - out[want]), same = false, got = -1;
      }
      MINIMO_TRY(comm.Broadcast(std::as_writable_bytes(std::span(&got, 1)), 0));
      if (got < 0) break;
      ++tokens;
      next = {got};
    }
    ++all;
    equal += same;
  }
  Json line = where;
  line.update({{"check", "greedy"}, {"texts", all}, {"equal", equal}, {"tokens", tokens}, {"worst_gap", worst_gap}});
  CheckOn0(comm, line, equal == all || (!f32 && worst_gap < 0.1));
  return {};
}

Status CheckGolden(Communicator& comm, const std::string& name, const std::string& folder, const std::string& golden,
                   const std::string& cases, const Setting& s, ThreadTeam& team) {
  MINIMO_ASSIGN(const LoadedModel model, LoadModel(folder));
  MINIMO_ASSIGN(const SafetensorsFile file, SafetensorsFile::Open(golden));
  MINIMO_ASSIGN(RankExecutor e, Make(comm, model, s, team));
  double worst = 0;
  bool same_bits = true;
  struct Text {
    std::vector<int32_t> ids;
    std::span<const float> logits;  // of the last positions
  };
  std::vector<Text> texts;
  for (const auto& [tensor, view] : file.tensors()) {
    const std::string key = "input_ids";
    if (!tensor.ends_with(key)) continue;
    const TensorView& logits = file.tensors().at(tensor.substr(0, tensor.size() - key.size()) + "logits");
    texts.push_back({{view.As<int32_t>(), view.As<int32_t>() + NumElements(view.shape)},
                     {logits.As<float>(), static_cast<size_t>(NumElements(logits.shape))}});
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<std::vector<int32_t>> ids;  // a text for each replica; where there is but one, shorter each time
    std::vector<std::span<const float>> expected;
    for (size_t r = 0; r < static_cast<size_t>(s.replicas()); ++r) {
      const Text& text = texts[(i + r) % texts.size()];
      const size_t less = texts.size() == 1 ? 5 * r : 0;
      ids.emplace_back(text.ids.begin(), text.ids.end() - static_cast<int64_t>(less));
      expected.push_back(text.logits.first(text.logits.size() - less * static_cast<size_t>(model.spec.vocab)));
    }
    for (const size_t chunk : {size_t{1024}, size_t{37}, size_t{1}}) {
      MINIMO_ASSIGN(const auto logits, AllLogits(e, ids, chunk));
      for (size_t r = 0; comm.rank() == 0 && r < ids.size(); ++r) {
        worst = std::max(worst, RelativeError(std::span(logits[r]).last(expected[r].size()), expected[r]));
      }
      if (chunk == 1024) continue;
      MINIMO_ASSIGN(const auto again, AllLogits(e, ids, chunk));
      same_bits = same_bits && again == logits;
    }
  }
  Json line = Where(comm, name, s);
  const double bound = s.f32 ? 1e-4 : 1e-2;
  line.update({{"check", "golden"}, {"worst_relative_error", worst}, {"bound", bound}, {"same_bits_again", same_bits}});
  CheckOn0(comm, line, worst < bound && same_bits);
  return cases.empty() ? Status() : CheckGreedy(comm, e, cases, Where(comm, name, s), s.f32, s.replicas());
}

Status Golden(Communicator& comm, const std::string& shared, const std::string& models, const std::string& only) {
  ThreadTeam team(4);
  const std::string replicas = fmt::format("dp{}:", comm.size());
  std::vector<Setting> settings = {{"tp", true, true},             {"ep", true, true},  {"ep+tp", true, true},
                                   {replicas + "ep", true, true},  {replicas + "tp", true, true},
                                   {replicas + "ep+tp", true, true}, {replicas + "ep", false, true},
                                   {"tp", true, false},            {"tp", false, true}};
  if (comm.size() == 4) {
    for (const std::string layout : {"2x2", "dp2:ep", "dp2:2x2"}) settings.push_back({layout, true, true});
  }
  if (only == "bf16") settings = {{"tp", false, true}};
  if (!only.empty() && only != "bf16") settings = {{only, true, true}};
  const auto check = [&](const std::string& name, const std::string& folder, const std::string& golden,
                         const std::string& cases, const Setting& s) -> Status {
    const Status status = CheckGolden(comm, name, folder, golden, cases, s, team);
    if (status.ok()) return {};
    Json line = Where(comm, name, s);
    line["error"] = status.error().message;
    CheckOn0(comm, line, false);
    return comm.failed() ? status : Status();
  };
  for (const Setting& s : settings) {
    for (const std::string nano : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
      const std::string folder = shared + "/golden/" + nano;
      MINIMO_TRY(check(nano, models + "/" + nano, folder + "/golden.safetensors", folder + "/cases.json", s));
    }
    for (const std::string random : {"mimo-a", "mimo-b", "mimo-c", "mimo-hub", "minimax-a", "minimax-b", "minimax-c"}) {
      const std::string folder = shared + "/golden/random/" + random;
      MINIMO_TRY(check(random, folder, folder + "/golden.safetensors", "", s));
    }
  }
  return {};
}

// Prompts of `prompt` tokens for each of `batch` sequences, then decode steps, fed to the ranks and to one CPU.
Status CompareReal(Communicator& comm, const std::string& name, const LoadedModel& model, Setting s, int batch,
                   int prompt, ThreadTeam& team) {
  constexpr int kSteps = 3;
  s.sequences = batch;
  s.tokens_each = prompt + kSteps;
  MINIMO_ASSIGN(RankExecutor e, Make(comm, model, s, team));
  std::unique_ptr<CpuExecutor> cpu;
  if (comm.rank() == 0) {
    MINIMO_ASSIGN(cpu, CpuExecutor::Create(model, LayoutFor(model.spec, true, batch, s.tokens_each), DType::kF32, 0));
  }
  std::vector<int32_t> ids;
  for (int i = 0; i < batch * s.tokens_each; ++i) ids.push_back((i * 7919 + i / 3 * 131) % model.spec.vocab);
  double errors[2] = {};
  int past = 0, at = 0;
  for (int i = 0; i <= kSteps; ++i) {
    const int n = i == 0 ? prompt : 1;
    const StepRecord step =
        MakeStep(e.layout, batch, past, n, s.tokens_each, 1, {ids.data() + at, static_cast<size_t>(n * batch)});
    std::span<float> out;
    MINIMO_TRY(e.executor->Run(step, &out));
    if (cpu != nullptr) {
      StepOutput expected;
      MINIMO_TRY(cpu->Run(step, &expected));
      errors[i > 0] = std::max(errors[i > 0], RelativeError(out, expected.logits));
    }
    past += n;
    at += n * batch;
  }
  Json line = Where(comm, name, s);
  const double bound = s.fp8_prefill ? kFp8Bound : 1e-2;
  line.update({{"check", "real shapes"}, {"prefill_activations", s.fp8_prefill ? "fp8" : "bf16"}, {"batch", batch},
               {"prompt", prompt}, {"prefill_error", errors[0]}, {"decode_error", errors[1]}, {"bound", bound}});
  CheckOn0(comm, line, errors[0] < bound && (s.fp8_prefill || errors[1] < bound));
  return {};
}

Status Real(Communicator& comm) {
  ThreadTeam team(4);
  for (const ExpertFormat format : {ExpertFormat::kFp8, ExpertFormat::kInt4}) {
    const SyntheticModel m2(M2Spec(2, 16, 1000), format, 64, 1), mimo(MiMoSpec(3, 16, 1000), format, 64, 2);
    const std::string tail = format == ExpertFormat::kFp8 ? " fp8" : " int4";
    for (const std::string experts : {"tp", "ep+tp", "ep"}) {
      for (const bool fp8 : {false, true}) {
        Setting s;
        s.experts = experts;
        s.fp8_prefill = fp8;
        MINIMO_TRY(CompareReal(comm, "m2" + tail, m2.model(), s, 1, 300, team));
        MINIMO_TRY(CompareReal(comm, "mimo" + tail, mimo.model(), s, 2, 150, team));
      }
    }
  }
  return {};
}

LoadedModel Shapes(const std::string& model, int layers) {
  LoadedModel shapes;
  shapes.spec = model == "m2" ? M2Spec(layers > 0 ? layers : 62, 256, 200064)
                              : MiMoSpec(layers > 0 ? layers : 48, 256, 152576);
  return shapes;
}

Setting Random(const std::vector<std::string>& args) {
  Setting s;
  s.random = true;
  s.int4_group = args[3] == "fp8" ? 0 : 64;
  s.experts = args[4];
  s.peer = args[5] == "peer";
  return s;
}

Status Decode(Communicator& comm, const std::vector<std::string>& args) {
  constexpr int kSteps = 24;
  ThreadTeam team(4);
  const LoadedModel model = Shapes(args[1], std::stoi(args[2]));
  const std::vector<int> batches = Numbers(args[6]);
  const int context = std::stoi(args[7]), most = *std::max_element(batches.begin(), batches.end());
  Setting s = Random(args);
  s.max_tokens = std::max(most, 256);
  s.sequences = most;
  s.tokens_each = context + 4 * kSteps + 16;
  MINIMO_ASSIGN(RankExecutor e, Make(comm, model, s, team));
  for (const int batch : batches) {
    std::vector<int32_t> ids, last;
    for (int i = 0; i < batch; ++i) ids.push_back(i * 977 % model.spec.vocab);
    StepRecord step = MakeStep(e.layout, batch, context, 1, s.tokens_each, 1, ids);
    std::vector<double> times, run_ms;
    for (int repeat = 0; repeat < 4; ++repeat) {
      MINIMO_ASSIGN(const double seconds, e.executor->DecodeOnDevice(step, kSteps, &last));
      if (repeat > 0) times.push_back(seconds / kSteps * 1e3);
      step.tokens = last;
    }
    for (int repeat = 0; repeat < 8; ++repeat) {
      std::span<float> out;
      const auto begin = std::chrono::steady_clock::now();
      MINIMO_TRY(e.executor->Run(step, &out));
      run_ms.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() * 1e3);
    }
    std::sort(times.begin(), times.end());
    std::sort(run_ms.begin(), run_ms.end());
    Json line = Where(comm, args[1], s);
    line.update({{"bench", "decode"}, {"layers", model.spec.num_layers()}, {"format", args[3]}, {"batch", batch},
                 {"context", context}, {"ms", times[1]}, {"least_ms", times[0]}, {"most_ms", times[2]},
                 {"run_with_logits_ms", run_ms[2]}, {"tok_s", batch / times[1] * 1e3},
                 {"layer_bytes_a_gpu", e.executor->layer_bytes_per_token()},
                 {"head_bytes_a_gpu", e.executor->head_bytes()}});
    if (comm.rank() == 0) Print(line);
  }
  return {};
}

Status Prefill(Communicator& comm, const std::vector<std::string>& args) {
  ThreadTeam team(4);
  const LoadedModel model = Shapes(args[1], std::stoi(args[2]));
  const std::vector<int> lengths = Numbers(args[6]);
  Setting s = Random(args);
  s.max_tokens = s.tokens_each = *std::max_element(lengths.begin(), lengths.end());
  s.fp8_prefill = args[7] == "fp8";
  MINIMO_ASSIGN(RankExecutor e, Make(comm, model, s, team));
  for (const int n : lengths) {
    std::vector<int32_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>((int64_t{i} * 7919 + 13) % model.spec.vocab));
    const StepRecord step = MakeStep(e.layout, 1, 0, n, s.tokens_each, 1, ids);
    std::vector<double> times;
    bool finite = true;
    for (int repeat = 0; repeat < 4; ++repeat) {
      std::span<float> out;
      const auto begin = std::chrono::steady_clock::now();
      MINIMO_TRY(e.executor->Run(step, &out));
      if (repeat > 0) times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      finite = finite && std::all_of(out.begin(), out.end(), [](float x) { return std::isfinite(x); });
    }
    std::sort(times.begin(), times.end());
    Json line = Where(comm, args[1], s);
    line.update({{"bench", "prefill"}, {"finite", finite}, {"layers", model.spec.num_layers()}, {"format", args[3]},
                 {"activations", args[7]}, {"tokens", n}, {"ms", times[1] * 1e3}, {"tok_s", n / times[1]}});
    if (comm.rank() == 0) Print(line);
  }
  return {};
}

Status RunRank(Communicator& comm, const std::vector<std::string>& args) {
  if ((args.size() == 3 || args.size() == 4) && args[0] == "golden") {
    return Golden(comm, args[1], args[2], args.size() == 4 ? args[3] : "");
  }
  if (args.size() == 1 && args[0] == "real") return Real(comm);
  if (args.size() == 8 && args[0] == "decode") return Decode(comm, args);
  if (args.size() == 8 && args[0] == "prefill") return Prefill(comm, args);
  return Errorf("usage: mpirun -n N gpu_ranks_check golden SHARED MODELS | real | decode MODEL LAYERS FORMAT "
                "EXPERTS PEER BATCHES CONTEXT | prefill MODEL LAYERS FORMAT EXPERTS PEER TOKENS bf16|fp8");
}

void RunRankOrExit(Communicator& comm, const std::vector<std::string>& args) {
  comm.set_timeout_ms(60'000);
  const Status status = RunRank(comm, args);
  if (status.ok()) return;
  std::fprintf(stderr, "rank %d: %s\n", comm.rank(), status.error().message.c_str());
  comm.Abort(status.error().message);
  std::fflush(nullptr);
  _exit(1);
}

int Main(int argc, char** argv) {
  std::vector<std::string> args(argv + 1, argv + argc);
  int threads = 0;
  if (args.size() > 1 && args[0] == "one") {
    g_one_gpu = true;
    threads = std::stoi(args[1]);
    args.erase(args.begin(), args.begin() + 2);
  }
  if (g_one_gpu && !StartedByMpi()) {
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);         // loading a kernel waits for those that run
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);  // streams that share a queue wait for each other
    std::vector<std::thread> running;
    auto ranks = MakeThreadRanks(threads);
    for (auto& rank : ranks) running.emplace_back([&] { RunRankOrExit(*rank, args); });
    for (std::thread& thread : running) thread.join();
    return g_failures == 0 ? 0 : 1;
  }
  auto world = OpenMpiWorld();
  if (!world.ok()) {
    std::fprintf(stderr, "gpu_ranks_check: %s\n", world.error().message.c_str());
    return 1;
  }
  RunRankOrExit(**world, args);
  return g_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace minimo::testing

int main(int argc, char** argv) { return minimo::testing::Main(argc, argv); }

// Checks and measures the CUDA backend in one go on a machine with a GPU: see tools/gpu_check.
//   gpu_check golden SHARED MODELS   every golden checkpoint, f32 and bf16, whole and chunked, and greedy text
//   gpu_check quality SHARED MODELS  the nano models' perplexity and KL divergence by prefill activations
//   gpu_check checkpoint FOLDER      a checkpoint with a golden.safetensors beside it
//   gpu_check real                   one layer of each kind at real shapes against the CPU executor
//   gpu_check real-mixed             the same of steps in which some decode while prompts are read
//   gpu_check real-small             a few steps of it, for compute-sanitizer
//   gpu_check decode MODEL LAYERS FORMAT BATCHES CONTEXT   random weights: time a step, share of the memory floor
//   gpu_check mixed MODEL LAYERS FORMAT STEPS CACHE   bf16 or fp8 cache; STEPS 31+900 (decoding at context 945 + tokens of
//                                    prompts of 900, e4m3 activations), ...
//   gpu_check prefill MODEL LAYERS FORMAT TOKENS ACTIVATIONS   bf16 or fp8; TOKENS 900 or 8x900 (prompts x tokens), ...
// Prints JSON lines, one a check or measurement; exits 1 if a check fails.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <sstream>

#include "base/thread_team.h"
#include "checkpoint/safetensors.h"
#include "cuda/cuda_executor.h"
#include "engine/cpu_executor.h"
#include "layers/kv_storage.h"
#include "models/loader.h"
#include "tests/gpu/bench_model.h"
#include "tests/gpu/check_support.h"
#include "tests/gpu/mixed_bench.h"
#include "tests/gpu/quality_check.h"
#include "tests/gpu/router_nudge.h"
#include "tests/gpu/synthetic_model.h"

namespace minimo::testing {
namespace {

using cuda::CudaExecutor;
using cuda::CudaOptions;

Result<std::vector<float>> AllLogits(CudaExecutor& executor, const std::vector<int32_t>& ids, size_t chunk) {
  std::vector<float> logits;
  for (size_t at = 0; at < ids.size(); at += chunk) {
    const size_t n = std::min(chunk, ids.size() - at);
    const StepRecord step = MakeStep(executor.kv_layout(), 1, static_cast<int>(at), static_cast<int>(n),
                                     static_cast<int>(ids.size()), static_cast<int>(n), {ids.data() + at, n});
    std::span<float> out;
    MINIMO_TRY(executor.Run(step, &out));
    logits.insert(logits.end(), out.begin(), out.end());
  }
  return logits;
}

void CheckGreedy(CudaExecutor& executor, const Json& c, const std::string& name, bool f32) {
  const auto prompt = c["prompt_ids"].get<std::vector<int32_t>>();
  const auto expected = c.contains("greedy_ids") ? c["greedy_ids"].get<std::vector<int32_t>>() : std::vector<int32_t>();
  if (expected.empty()) return;
  const int total = static_cast<int>(prompt.size() + expected.size());
  std::vector<int32_t> next = prompt;
  int past = 0, equal = 0;
  double gap = 0;
  for (const int32_t want : expected) {
    std::span<float> out;
    const StepRecord step = MakeStep(executor.kv_layout(), 1, past, static_cast<int>(next.size()), total, 1, next);
    if (Failed(executor.Run(step, &out), name)) return;
    past += static_cast<int>(next.size());
    const auto best = std::max_element(out.begin(), out.end());
    const int32_t got = static_cast<int32_t>(best - out.begin());
    if (got != want) {
      gap = double{*best} - out[want];
      break;
    }
    ++equal;
    next = {got};
  }
  const bool all = equal == static_cast<int>(expected.size());
  Check({{"check", "greedy"}, {"model", name}, {"dtype", f32 ? "f32" : "bf16"}, {"equal", equal},
         {"tokens", expected.size()}, {"gap_at_first_difference", gap}},
        all || (!f32 && gap < 0.1));
}

void CheckGolden(const std::string& name, const std::string& folder, const std::string& golden,
                 const std::string& cases, ThreadTeam& team) {
  auto model = LoadModel(folder);
  auto file = SafetensorsFile::Open(golden);
  if (!model.ok() || !file.ok()) return Check({{"check", name}, {"error", "cannot load"}}, false);
  // Of each float32 run, the tokens of each expert: a bf16 run whose counts differ sent a token elsewhere, which is a near
  // tie of the router's and not a loss of precision.
  std::vector<std::vector<int64_t>> routed;
  for (const bool f32 : {true, false}) {
    CudaOptions options;
    options.f32 = f32;
    options.max_tokens = 1024;
    auto executor = CudaExecutor::Create(model->spec, &model->weights, LayoutFor(model->spec, f32, 1, 1024), options, team);
    if (!executor.ok()) return Check({{"check", name}, {"error", executor.error().message}}, false);
    double worst = 0, worst_alike = 0;
    int count = 0, alike = 0;
    bool same_bits = true;
    std::vector<int64_t> before((*executor)->GetExpertLoad().counts.size());
    for (const auto& [tensor, view] : file->tensors()) {
      const std::string key = "input_ids";
      if (!tensor.ends_with(key)) continue;
      const std::vector<int32_t> ids(view.As<int32_t>(), view.As<int32_t>() + NumElements(view.shape));
      const TensorView& expected = file->tensors().at(tensor.substr(0, tensor.size() - key.size()) + "logits");
      const auto size = static_cast<size_t>(NumElements(expected.shape));
      for (const size_t chunk : {size_t{1024}, size_t{37}, size_t{1}, size_t{1}}) {
        auto logits = AllLogits(**executor, ids, chunk);
        if (!logits.ok()) return Check({{"check", name}, {"error", logits.error().message}}, false);
        const double error = RelativeError({logits->data() + logits->size() - size, size}, {expected.As<float>(), size});
        worst = std::max(worst, error);
        std::vector<int64_t> counts = (*executor)->GetExpertLoad().counts;
        for (size_t i = 0; i < counts.size(); ++i) counts[i] -= before[i], before[i] += counts[i];
        if (f32) routed.push_back(counts);
        if (counts == routed[static_cast<size_t>(count)]) ++alike, worst_alike = std::max(worst_alike, error);
        if (chunk == 37) {
          auto again = AllLogits(**executor, ids, chunk);
          same_bits = same_bits && again.ok() && *again == *logits;
          before = (*executor)->GetExpertLoad().counts;
        }
        ++count;
      }
    }
    Check({{"check", "golden"}, {"model", name}, {"dtype", f32 ? "f32" : "bf16"}, {"runs", count},
           {"worst_relative_error", worst}, {"runs_routed_as_f32", alike}, {"their_worst_relative_error", worst_alike},
           {"bound", f32 ? 1e-4 : 1e-2}, {"same_bits_again", same_bits}},
          worst < (f32 ? 1e-4 : 1e-2) && same_bits);
    if (cases.empty()) continue;
    std::FILE* f = std::fopen(cases.c_str(), "rb");
    if (f == nullptr) continue;
    std::string text(size_t{1} << 22, '\0');
    text.resize(std::fread(text.data(), 1, text.size(), f));
    std::fclose(f);
    const auto json = Json::parse(text, nullptr, false);
    for (const auto& c : json.is_array() ? json : json.value("cases", Json::array())) {
      CheckGreedy(**executor, c, name, f32);
    }
  }
}

void Golden(const std::string& shared, const std::string& models) {
  ThreadTeam team(0);
  for (const char* nano : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
    const std::string folder = shared + "/golden/" + nano;
    CheckGolden(nano, models + "/" + nano, folder + "/golden.safetensors", folder + "/cases.json", team);
  }
  for (const char* random : {"mimo-a", "mimo-b", "mimo-c", "mimo-hub", "minimax-a", "minimax-b", "minimax-c"}) {
    const std::string folder = shared + "/golden/random/" + random;
    CheckGolden(random, folder, folder + "/golden.safetensors", "", team);
  }
}

struct RealRun {
  bool f32 = false, fp8_prefill = false;
  int batch = 1, prompt = 0, steps = 3;
  int chunk = 1;  // tokens that the second half of the sequences bring in each step after the prompts

  int TokensEach() const { return prompt + steps * chunk; }
};

std::vector<StepRecord> StepsOf(const RealRun& r, const KvLayout& layout, std::span<const int32_t> ids) {
  std::vector<StepRecord> steps;
  std::vector<Part> parts(static_cast<size_t>(r.batch), {0, r.prompt});
  size_t at = 0;
  for (int i = 0; i <= r.steps; ++i) {
    steps.push_back(MakeStep(layout, parts, r.batch, r.TokensEach(), ids.subspan(at)));
    at += steps.back().tokens.size();
    for (int s = 0; s < r.batch; ++s) {
      Part& p = parts[static_cast<size_t>(s)];
      p = {p.past + p.n, s < r.batch / 2 ? 1 : r.chunk};
    }
  }
  return steps;
}

// The prompts' logits, then those of every step, and where the tokens went.
Result<Traced> OnGpu(const LoadedModel& model, const RealRun& r, const std::vector<int32_t>& ids, ThreadTeam& team) {
  CudaOptions options;
  options.f32 = r.f32;
  options.fp8_prefill = r.fp8_prefill;
  options.max_tokens = r.batch * r.prompt;
  const KvLayout layout = LayoutFor(model.spec, r.f32, r.batch, r.TokensEach());
  MINIMO_ASSIGN(auto gpu, CudaExecutor::Create(model.spec, &model.weights, layout, options, team));
  Traced traced;
  std::vector<int64_t> before(gpu->GetExpertLoad().counts.size());
  for (const StepRecord& step : StepsOf(r, layout, ids)) {
    std::span<float> out;
    MINIMO_TRY(gpu->Run(step, &out));
    traced.logits.insert(traced.logits.end(), out.begin(), out.end());
    traced.routed.push_back(gpu->GetExpertLoad().counts);
    for (size_t e = 0; e < before.size(); ++e) {
      traced.routed.back()[e] -= before[e];
      before[e] += traced.routed.back()[e];
    }
  }
  return traced;
}

Result<std::vector<float>> OnCpu(const LoadedModel& model, const RealRun& r, const std::vector<int32_t>& ids) {
  const KvLayout layout = LayoutFor(model.spec, true, r.batch, r.TokensEach());
  MINIMO_ASSIGN(auto cpu, CpuExecutor::Create(model, layout, DType::kF32, 0));
  std::vector<float> logits;
  for (const StepRecord& step : StepsOf(r, layout, ids)) {
    StepOutput out;
    MINIMO_TRY(cpu->Run(step, &out));
    logits.insert(logits.end(), out.logits.begin(), out.logits.end());
  }
  return logits;
}

// Prompts of `prompt` tokens for each of `batch` sequences, then decode steps, both executors fed the same tokens. In bf16
// the model is first moved away from its routers' ties (router_nudge.h).
// With fp8_prefill the prompt's activations are e4m3, 3 bits of mantissa: its bound is that of such rounding. Decoding
// from such a cache is told, not bounded: a router's near tie may fall otherwise.
void CompareReal(const std::string& name, LoadedModel model, const RealRun& r, ThreadTeam& team) {
  std::vector<int32_t> ids;
  for (int i = 0; i < r.batch * r.TokensEach(); ++i) ids.push_back((i * 7919 + i / 3 * 131) % model.spec.vocab);
  const bool nudges = !r.f32 && !r.fp8_prefill;
  auto n = NudgeRouters(&model, 3e-4f, nudges ? 24 : 0, [&](bool f32) {
    RealRun run = r;
    run.f32 |= f32;
    run.fp8_prefill &= !f32;
    return OnGpu(model, run, ids, team);
  });
  if (!n.ok()) return Check({{"check", name}, {"error", n.error().message}}, false);
  const auto cpu = OnCpu(model, r, ids);
  if (!cpu.ok()) return Check({{"check", name}, {"error", cpu.error().message}}, false);
  const size_t rows = static_cast<size_t>(r.batch) * static_cast<size_t>(model.spec.vocab);
  const std::span<const float> got(n->last.logits), want(*cpu);
  const double prefill_error = RelativeError(got.first(rows), want.first(rows));
  double decode_error = 0;
  for (size_t at = rows; at < want.size(); at += rows) {
    decode_error = std::max(decode_error, RelativeError(got.subspan(at, rows), want.subspan(at, rows)));
  }
  const double bound = r.f32 ? 1e-4 : r.fp8_prefill ? kFp8Bound : 1e-2;
  Check({{"check", "real shapes"}, {"model", name}, {"dtype", r.f32 ? "f32" : "bf16"},
         {"prefill_activations", r.f32 ? "f32" : r.fp8_prefill ? "fp8" : "bf16"}, {"batch", r.batch},
         {"prompt", r.prompt}, {"chunk", r.chunk}, {"prefill_error", prefill_error}, {"decode_error", decode_error}, {"bound", bound},
         {"went_elsewhere", n->flipped}, {"bias_moved", n->moved}, {"rounds", n->rounds}, {"still_elsewhere", n->left}},
        prefill_error < bound && (r.fp8_prefill || decode_error < bound));
}

void Real() {
  ThreadTeam team(0);
  for (const ExpertFormat format : {ExpertFormat::kFp8, ExpertFormat::kInt4}) {
    const std::string tail = format == ExpertFormat::kFp8 ? " fp8" : " int4";
    const SyntheticModel m2(M2Spec(2, 16, 1000), format, 64, 1);
    const SyntheticModel mimo(MiMoSpec(3, 16, 1000), format, 64, 2);
    ModelSpec full = MiMoSpec(6, 12, 1000);
    full.layers = {full.layers[5]};
    const SyntheticModel mimo_full(full, format, 128, 3);
    for (const bool f32 : {true, false}) {
      CompareReal("m2" + tail, m2.model(), {f32, false, 1, 200, 3}, team);
      CompareReal("mimo" + tail, mimo.model(), {f32, false, 1, 200, 3}, team);
      CompareReal("mimo full" + tail, mimo_full.model(), {f32, false, 1, 150, 3}, team);
    }
    CompareReal("m2" + tail, m2.model(), {false, true, 1, 200, 3}, team);
    CompareReal("m2" + tail, m2.model(), {false, true, 3, 140, 3}, team);
    CompareReal("mimo" + tail, mimo.model(), {false, true, 1, 200, 3}, team);
    CompareReal("mimo full" + tail, mimo_full.model(), {false, true, 1, 150, 3}, team);
    // Few tokens an expert, several tiles for each of fp8_linear's blocks.
    const SyntheticModel many(M2Spec(1, 64, 1000), format, 64, 4);
    CompareReal("m2, 64 experts" + tail, many.model(), {false, true, 1, 100, 1}, team);
    CompareReal("m2" + tail, m2.model(), {false, false, 3, 40, 3}, team);
    CompareReal("m2" + tail, m2.model(), {false, false, 12, 17, 3}, team);
    CompareReal("m2" + tail, m2.model(), {false, false, 40, 5, 3}, team);
    CompareReal("mimo" + tail, mimo.model(), {false, false, 5, 40, 3}, team);
    CompareReal("mimo" + tail, mimo.model(), {false, false, 70, 3, 3}, team);
  }
}

// Some sequences decode while the prompts of others are read.
void RealMixed() {
  ThreadTeam team(0);
  for (const ExpertFormat format : {ExpertFormat::kFp8, ExpertFormat::kInt4}) {
    const std::string tail = format == ExpertFormat::kFp8 ? " fp8" : " int4";
    const SyntheticModel m2(M2Spec(2, 16, 1000), format, 64, 1);
    const SyntheticModel mimo(MiMoSpec(3, 16, 1000), format, 64, 2);
    for (const bool fp8 : {false, true}) {
      CompareReal("m2" + tail, m2.model(), {false, fp8, 8, 40, 3, 11}, team);
      CompareReal("mimo" + tail, mimo.model(), {false, fp8, 5, 150, 2, 37}, team);
    }
  }
}

void RealSmall() {
  ThreadTeam team(0);
  const SyntheticModel m2(M2Spec(1, 8, 500), ExpertFormat::kFp8, 64, 1);
  CompareReal("m2 fp8", m2.model(), {false, false, 1, 20, 1}, team);
  CompareReal("m2 fp8", m2.model(), {false, false, 3, 12, 1}, team);
  CompareReal("m2 fp8", m2.model(), {true, false, 1, 5, 1}, team);
  const SyntheticModel mimo(MiMoSpec(2, 8, 500), ExpertFormat::kInt4, 32, 2);
  CompareReal("mimo int4", mimo.model(), {false, false, 1, 140, 1}, team);
  CompareReal("mimo int4", mimo.model(), {false, false, 3, 12, 1}, team);
}

int64_t ExpectedExperts(int tokens) {
  return std::llround(256 * (1 - std::pow(31.0 / 32.0, tokens)));
}

// Bytes one step of `batch` sequences at `context` must read, uniform routing, head included if `head`.
double FloorBytes(const BenchModel& b, const CudaExecutor& e, int batch, int context, bool head) {
  double bytes = static_cast<double>(e.layer_bytes_per_token());
  const double bits = b.options.random_int4_group > 0 ? 4.25 : 8.0;
  for (const LayerSpec& l : b.spec.layers) {
    const AttentionSpec& a = l.attention;
    const int64_t seen = a.window > 0 ? std::min(context, a.window) : context;
    bytes += 2.0 * batch * seen * a.kv_heads * (a.head_dim + a.v_head_dim);
    if (l.moe) bytes += (ExpectedExperts(batch) - 8) * 3.0 * b.spec.hidden * b.spec.moe.intermediate * bits / 8;
  }
  return head ? bytes + e.head_bytes() : bytes;
}

void Decode(const std::string& model, int layers, const std::string& format, const std::vector<int>& batches,
            int context, double bandwidth) {
  ThreadTeam team(0);
  BenchModel b = MakeBench(model, layers, format);
  const int most = *std::max_element(batches.begin(), batches.end());
  constexpr int kSteps = 24;
  const int tokens_each = context + 4 * kSteps + 16;
  b.options.max_tokens = std::max(most, 256);
  const KvLayout layout = LayoutFor(b.spec, false, most, tokens_each);
  const auto start = std::chrono::steady_clock::now();
  auto made = CudaExecutor::Create(b.spec, nullptr, layout, b.options, team);
  if (!made.ok()) return Check({{"check", "decode " + model}, {"error", made.error().message}}, false);
  CudaExecutor& e = **made;
  const double start_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (const int batch : batches) {
    std::vector<int32_t> ids, last;
    for (int i = 0; i < batch; ++i) ids.push_back(i * 977 % b.spec.vocab);
    StepRecord step = MakeStep(layout, batch, context, 1, tokens_each, 1, ids);
    std::vector<double> times;
    for (int repeat = 0; repeat < 4; ++repeat) {
      const auto seconds = e.DecodeOnDevice(step, kSteps, &last);
      if (!seconds.ok()) return Check({{"check", "decode " + model}, {"error", seconds.error().message}}, false);
      if (repeat > 0) times.push_back(*seconds / kSteps * 1e3);
      step.tokens = last;
    }
    std::sort(times.begin(), times.end());
    std::span<float> out;
    std::vector<double> run_ms;
    for (int repeat = 0; repeat < 6; ++repeat) {
      const auto begin = std::chrono::steady_clock::now();
      if (Failed(e.Run(step, &out), "decode")) return;
      run_ms.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() * 1e3);
    }
    std::sort(run_ms.begin(), run_ms.end());
    const double floor_ms = FloorBytes(b, e, batch, context, true) / bandwidth * 1e3;
    Print({{"bench", "decode"}, {"model", model}, {"layers", b.spec.num_layers()}, {"format", format}, {"batch", batch},
           {"context", context}, {"ms", times[1]}, {"ms_min", times[0]}, {"ms_max", times[2]},
           {"run_with_logits_to_host_ms", run_ms[2]}, {"floor_ms", floor_ms}, {"share_of_floor", floor_ms / times[1]},
           {"tok_s", batch / times[1] * 1e3}, {"start_s", start_s}, {"last_tokens", std::vector<int32_t>(last.begin(), last.begin() + std::min(4, batch))}});
  }
  int64_t most_load = 0, all_load = 0, used = 0;
  const auto load = e.GetExpertLoad();
  for (const int64_t c : load.counts) most_load = std::max(most_load, c), all_load += c, used += c > 0;
  Print({{"bench", "routing"}, {"model", model}, {"experts_used_share", static_cast<double>(used) / load.counts.size()},
         {"max_over_mean", most_load * static_cast<double>(load.counts.size()) / all_load}});
}

// Steps of whole prompts.
struct Prompts {
  int count, tokens;
};
std::vector<Prompts> PromptsOf(const std::string& text) {
  std::vector<Prompts> prompts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) {
    const size_t x = part.find('x');
    prompts.push_back(x == std::string::npos ? Prompts{1, std::stoi(part)}
                                             : Prompts{std::stoi(part.substr(0, x)), std::stoi(part.substr(x + 1))});
  }
  return prompts;
}

void Prefill(const std::string& model, int layers, const std::string& format, const std::vector<Prompts>& steps,
             bool fp8_activations) {
  ThreadTeam team(0);
  BenchModel b = MakeBench(model, layers, format);
  int most = 0, most_prompts = 0, longest = 0;
  for (const Prompts& p : steps) {
    most = std::max(most, p.count * p.tokens), most_prompts = std::max(most_prompts, p.count);
    longest = std::max(longest, p.tokens);
  }
  b.options.max_tokens = most;
  b.options.fp8_prefill = fp8_activations;
  const KvLayout layout = LayoutFor(b.spec, false, most_prompts, longest);
  auto made = CudaExecutor::Create(b.spec, nullptr, layout, b.options, team);
  if (!made.ok()) return Check({{"check", "prefill " + model}, {"error", made.error().message}}, false);
  for (const Prompts& p : steps) {
    const int n = p.count * p.tokens;
    std::vector<int32_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>((int64_t{i} * 7919 + 13) % b.spec.vocab));
    const StepRecord step = MakeStep(layout, p.count, 0, p.tokens, longest, 1, ids);
    std::vector<double> times;
    std::vector<float> first;
    std::span<float> out;
    bool same = true;
    double total = 0;
    for (int repeat = 0; repeat < 5 || (repeat < 20 && total < 0.5); ++repeat) {
      const auto begin = std::chrono::steady_clock::now();
      if (Failed((*made)->Run(step, &out), "prefill")) return;
      const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      total += took;
      if (repeat > 1) times.push_back(took);
      if (repeat == 0) first.assign(out.begin(), out.end());
      same = same && std::equal(out.begin(), out.end(), first.begin(), first.end());  // NaN is never equal
    }
    std::sort(times.begin(), times.end());
    const double median = times[times.size() / 2];
    double norm = 0;
    for (const float x : first) norm += double{x} * x;
    if (!same) Check({{"check", "prefill " + model}, {"error", "logits are not numbers, or not the same again"},
                      {"tokens", n}, {"logits_rms", std::sqrt(norm / static_cast<double>(first.size()))}}, false);
    Print({{"bench", "prefill"}, {"model", model}, {"layers", b.spec.num_layers()}, {"format", format},
           {"activations", fp8_activations ? "fp8" : "bf16"}, {"prompts", p.count}, {"tokens", n}, {"ms", median * 1e3}, {"ms_min", times.front() * 1e3},
           {"ms_max", times.back() * 1e3}, {"tok_s", n / median}, {"ms_a_layer", median * 1e3 / b.spec.num_layers()}});
  }
}

int Main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  const auto device = cuda::FindCudaDevice(0);
  if (!device.ok()) {
    std::fprintf(stderr, "gpu_check: %s\n", device.error().message.c_str());
    return 1;
  }
  Print({{"device", device->name}, {"free_bytes", device->free_bytes}});
  // Measured read bandwidth of a stream (PERFORMANCE, "What the machines give").
  const double bandwidth = device->name.find("H200") != std::string::npos ? 4.54e12 : 3.11e12;
  if (args.size() == 3 && args[0] == "golden") {
    Golden(args[1], args[2]);
  } else if (args.size() == 3 && args[0] == "quality") {
    for (const std::string nano : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
      CheckQuality(nano, args[2] + "/" + nano, args[1] + "/golden/" + nano + "/cases.json");
    }
  } else if (args.size() == 2 && args[0] == "checkpoint") {
    ThreadTeam team(0);
    CheckGolden(args[1], args[1], args[1] + "/golden.safetensors", "", team);
  } else if (args.size() == 1 && args[0] == "real") {
    Real();
  } else if (args.size() == 1 && args[0] == "real-mixed") {
    RealMixed();
  } else if (args.size() == 1 && args[0] == "real-small") {
    RealSmall();
  } else if (args.size() == 6 && args[0] == "decode") {
    Decode(args[1], std::stoi(args[2]), args[3], Numbers(args[4]), std::stoi(args[5]), bandwidth);
  } else if (args.size() == 6 && args[0] == "mixed") {
    BenchMixed(MakeBench(args[1], std::stoi(args[2]), args[3]), args[3], args[4], args[5] == "fp8");
  } else if (args.size() == 6 && args[0] == "prefill") {
    Prefill(args[1], std::stoi(args[2]), args[3], PromptsOf(args[4]), args[5] == "fp8");
  } else {
    std::fprintf(stderr, "usage: gpu_check golden|quality SHARED MODELS | checkpoint FOLDER | real | real-mixed | real-small | decode MODEL LAYERS FORMAT BATCHES CONTEXT | "
                         "prefill MODEL LAYERS FORMAT TOKENS bf16|fp8 | mixed MODEL LAYERS FORMAT STEPS bf16|fp8\n");
    return 2;
  }
  return g_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace minimo::testing

int main(int argc, char** argv) { return minimo::testing::Main(argc, argv); }

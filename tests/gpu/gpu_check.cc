// Checks and measures the CUDA backend in one go on a machine with a GPU: see tools/gpu_check.
//   gpu_check golden SHARED MODELS   every golden checkpoint, f32 and bf16, whole and chunked, and greedy text
//   gpu_check quality SHARED MODELS  the nano models' perplexity and KL divergence by prefill activations
//   gpu_check checkpoint FOLDER      a checkpoint with a golden.safetensors beside it
//   gpu_check real                   one layer of each kind at real shapes against the CPU executor
//   gpu_check real-mixed             the same of steps in which some decode while prompts are read
//   gpu_check real-long              the same with contexts of up to 2,100 tokens
//   gpu_check real-small             a few steps of it, for compute-sanitizer
//   gpu_check decode MODEL LAYERS FORMAT BATCHES CONTEXT [fp8]   random weights: time a step, share of the memory
//                                    floor; fp8: the cache
//   gpu_check mixed MODEL LAYERS FORMAT STEPS CACHE   bf16 or fp8 cache; STEPS 31+900 (decoding at context 945 + tokens
//                                    of prompts of 900, e4m3 activations), ...
//   gpu_check prefill MODEL LAYERS FORMAT TOKENS ACTIVATIONS   bf16 or fp8; TOKENS 900 or 8x900 (prompts x tokens), ...
// Prints JSON lines, one a check or measurement; exits 1 if a check fails.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <sstream>

#include "base/thread_team.h"
#include "cuda/cuda_executor.h"
#include "tests/gpu/bench_model.h"
#include "tests/gpu/check_support.h"
#include "tests/gpu/golden_check.h"
#include "tests/gpu/mixed_bench.h"
#include "tests/gpu/quality_check.h"
#include "tests/gpu/read_bandwidth.h"
#include "tests/gpu/real_check.h"
#include "tests/gpu/synthetic_model.h"

namespace minimo::testing {
namespace {

using cuda::CudaExecutor;
using cuda::CudaOptions;

int64_t ExpectedExperts(int tokens) {
  return std::llround(256 * (1 - std::pow(31.0 / 32.0, tokens)));
}

// Bytes one step of `batch` sequences at `context` must read, uniform routing, head included if `head`.
double FloorBytes(const BenchModel& b, const CudaExecutor& e, int batch, int context, bool head) {
  const double element_bytes = e.kv_layout().bytes_per_element;
  double bytes = static_cast<double>(e.layer_bytes_per_token());
  const double bits = b.options.random_int4_group > 0 ? 4.25 : 8.0;
  for (const LayerSpec& l : b.spec.layers) {
    const AttentionSpec& a = l.attention;
    const int64_t seen = a.window > 0 ? std::min(context, a.window) : context;
    bytes += element_bytes * batch * seen * a.kv_heads * (a.head_dim + a.v_head_dim);
    if (l.moe) bytes += (ExpectedExperts(batch) - 8) * 3.0 * b.spec.hidden * b.spec.moe.intermediate * bits / 8;
  }
  return head ? bytes + e.head_bytes() : bytes;
}

constexpr int kDecodeSteps = 24;

// Milliseconds of a step for each batch, in order; empty: told why.
std::vector<double> TimeDecode(BenchModel b, const std::string& format, const std::vector<int>& batches, int context,
                               DType cache, double bandwidth, std::vector<double>* layer_floor_bytes) {
  ThreadTeam team(0);
  const std::string where = "decode " + b.name;
  const int most = *std::max_element(batches.begin(), batches.end());
  const int tokens_each = context + 4 * kDecodeSteps + 16;
  b.options.max_tokens = std::max(most, 256);
  const KvLayout layout = LayoutFor(b.spec, cache, most, tokens_each);
  const auto start = std::chrono::steady_clock::now();
  auto made = CudaExecutor::Create(b.spec, nullptr, layout, b.options, team);
  if (!made.ok()) return Check({{"check", where}, {"error", made.error().message}}, false), std::vector<double>();
  CudaExecutor& e = **made;
  const double start_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::vector<double> step_ms;
  for (const int batch : batches) {
    std::vector<int32_t> ids, last;
    for (int i = 0; i < batch; ++i) ids.push_back(i * 977 % b.spec.vocab);
    StepRecord step = MakeStep(layout, batch, context, 1, tokens_each, 1, ids);
    std::vector<double> times;
    for (int repeat = 0; repeat < 4; ++repeat) {
      const auto seconds = e.DecodeOnDevice(step, kDecodeSteps, &last);
      if (!seconds.ok()) {
        Check({{"check", where}, {"error", seconds.error().message}}, false);
        return {};
      }
      if (repeat > 0) times.push_back(*seconds / kDecodeSteps * 1e3);
      step.tokens = last;
    }
    std::sort(times.begin(), times.end());
    std::span<float> out;
    std::vector<double> run_ms;
    for (int repeat = 0; repeat < 6; ++repeat) {
      const auto begin = std::chrono::steady_clock::now();
      if (Failed(e.Run(step, &out), "decode")) return {};
      run_ms.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() * 1e3);
    }
    std::sort(run_ms.begin(), run_ms.end());
    layer_floor_bytes->push_back(FloorBytes(b, e, batch, context, false));
    const double floor_ms = FloorBytes(b, e, batch, context, true) / bandwidth * 1e3;
    Print({{"bench", "decode"}, {"model", b.name}, {"layers", b.spec.num_layers()}, {"format", format},
           {"cache", cache == DType::kBf16 ? "bf16" : "fp8"}, {"batch", batch}, {"context", context}, {"ms", times[1]},
           {"ms_min", times[0]}, {"ms_max", times[2]},
           {"run_with_logits_to_host_ms", run_ms[2]}, {"floor_ms", floor_ms}, {"share_of_floor", floor_ms / times[1]},
           {"tok_s", batch / times[1] * 1e3}, {"start_s", start_s},
           {"last_tokens", std::vector<int32_t>(last.begin(), last.begin() + std::min(4, batch))}});
    step_ms.push_back(times[1]);
  }
  int64_t most_load = 0, all_load = 0, used = 0;
  const auto load = e.GetExpertLoad();
  for (const int64_t c : load.counts) most_load = std::max(most_load, c), all_load += c, used += c > 0;
  Print({{"bench", "routing"}, {"model", b.name},
         {"experts_used_share", static_cast<double>(used) / load.counts.size()},
         {"max_over_mean", most_load * static_cast<double>(load.counts.size()) / all_load}});
  return step_ms;
}

// Steps of the whole depth; of a truncated model of half of it too, for the layers alone: what the second half adds.
void Decode(const std::string& model, int layers, const std::string& format, const std::vector<int>& batches,
            int context, DType cache, double bandwidth) {
  std::vector<double> floor, half_floor;
  const auto time = [&](int depth, std::vector<double>* bytes) {
    return TimeDecode(MakeBench(model, depth, format), format, batches, context, cache, bandwidth, bytes);
  };
  const std::vector<double> ms = time(layers, &floor);
  if (layers < 2 || ms.empty()) return;
  const std::vector<double> half = time(layers / 2, &half_floor);
  for (size_t i = 0; i < half.size(); ++i) {
    const double bytes = floor[i] - half_floor[i], step_ms = ms[i] - half[i], floor_ms = bytes / bandwidth * 1e3;
    const int count = layers - layers / 2;
    Print({{"bench", "decode, layers only"}, {"model", model},
           {"layers", std::to_string(layers / 2) + " to " + std::to_string(layers)}, {"format", format},
           {"batch", batches[i]}, {"context", context}, {"us_a_layer", step_ms * 1e3 / count},
           {"bytes_a_layer", bytes / count}, {"bandwidth", bandwidth}, {"share_of_floor", floor_ms / step_ms}});
  }
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
           {"activations", fp8_activations ? "fp8" : "bf16"}, {"prompts", p.count}, {"tokens", n},
           {"ms", median * 1e3}, {"ms_min", times.front() * 1e3}, {"ms_max", times.back() * 1e3},
           {"tok_s", n / median}, {"ms_a_layer", median * 1e3 / b.spec.num_layers()}});
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
  if (args.size() == 3 && args[0] == "golden") {
    CheckGoldens(args[1], args[2]);
  } else if (args.size() == 3 && args[0] == "quality") {
    for (const std::string nano : {"nano-minimax-m2", "nano-mimo-v2-flash"}) {
      CheckQuality(nano, args[2] + "/" + nano, args[1] + "/golden/" + nano + "/cases.json");
    }
  } else if (args.size() == 2 && args[0] == "checkpoint") {
    CheckGoldenFolder(args[1]);
  } else if (args.size() == 1 && args[0] == "real") {
    CheckReal();
  } else if (args.size() == 1 && args[0] == "real-mixed") {
    CheckRealMixed();
  } else if (args.size() == 1 && args[0] == "real-long") {
    CheckRealLong();
  } else if (args.size() == 1 && args[0] == "real-small") {
    CheckRealSmall();
  } else if ((args.size() == 6 || (args.size() == 7 && args[6] == "fp8")) && args[0] == "decode") {
    const double bandwidth = ReadBandwidth();
    Print({{"bench", "read of a stream"}, {"bytes_s", bandwidth}});
    if (bandwidth <= 0) return 1;
    Decode(args[1], std::stoi(args[2]), args[3], Numbers(args[4]), std::stoi(args[5]),
           args.size() == 7 ? DType::kF8E4M3 : DType::kBf16, bandwidth);
  } else if (args.size() == 6 && args[0] == "mixed") {
    BenchMixed(MakeBench(args[1], std::stoi(args[2]), args[3]), args[3], args[4], args[5] == "fp8");
  } else if (args.size() == 6 && args[0] == "prefill") {
    Prefill(args[1], std::stoi(args[2]), args[3], PromptsOf(args[4]), args[5] == "fp8");
  } else {
    std::fprintf(stderr, "usage: gpu_check golden|quality SHARED MODELS | checkpoint FOLDER | real | real-mixed | "
                         "real-long | real-small | decode MODEL LAYERS FORMAT BATCHES CONTEXT [fp8] | "
                         "prefill MODEL LAYERS FORMAT TOKENS bf16|fp8 | mixed MODEL LAYERS FORMAT STEPS bf16|fp8\n");
    return 2;
  }
  return g_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace minimo::testing

int main(int argc, char** argv) { return minimo::testing::Main(argc, argv); }

// minimo bench latency, throughput, load and kernels: the engine without a server.
#include <memory>

#include "apps/bench.h"
#include "apps/flag_checks.h"
#include "apps/rank_flags.h"
#include "bench/engine_bench.h"
#include "bench/kernel_bench.h"
#include "bench/load_bench.h"
#include "models/loader.h"

namespace minimo {
namespace {

void AddEngineFlags(CLI::App* app, EngineOptions* o) {
  o->model = "nano-minimax-m2";
  app->add_option("--model", o->model, "checkpoint folder or shipped model")->capture_default_str();
  app->add_option("--backend", o->backend, "auto, cpu or cuda")->capture_default_str();
  app->add_option("--dtype", o->dtype, "auto, f32 or bf16")->capture_default_str();
  app->add_option("--activations", o->activations, "on the CPU: exact or int8")->capture_default_str();
  app->add_option("--kv-cache-dtype", o->kv_cache_dtype, "auto, f32, bf16 or fp8")->capture_default_str();
  app->add_option("--prefill-activations", o->prefill_activations, "CUDA: auto, bf16 or fp8 (of FP8 and 4-bit weights)")
      ->capture_default_str();
  app->add_option("--load-format", o->load_format,
                  "auto; resident: on the CPU, weights copied to memory of its own, exact 4-bit ones laid out for "
                  "speed; dummy: random weights of the config's shapes");
  app->add_option("--numa", o->numa, "on the CPU: off, isolate or distribute")->capture_default_str();
  app->add_option("--threads", o->threads, "0: all cores")->capture_default_str();
  app->add_option("--num-layers", o->num_layers, "only the first N layers; 0: all")->capture_default_str();
  app->add_option("--max-num-seqs", o->max_num_seqs, "sequences in one step")->check(AtLeast(1))->capture_default_str();
  app->add_option("--max-num-batched-tokens", o->max_num_batched_tokens, "0: chosen by the backend");
  app->add_option("--max-model-len", o->max_model_len, "0: the model's own");
}

// On many ranks (minimo launch -n N -- bench ...) rank 0 measures.
template <typename Run>
Status OnRanks(const RankFlags& ranks, EngineOptions* options, Run run) {
  MINIMO_TRY(ResolveModelFolder(options->model));  // before the ranks meet: each finds the same fault
  MINIMO_TRY(ranks.Fill(options));
  return Follows(*options) ? Follow(*options) : run();
}

Status Said(const Result<bool>& clean) {
  if (!clean.ok()) return clean.error();
  return *clean ? Status() : Status(Error{});
}

}  // namespace

void AddBenchLatency(CLI::App& bench, Commands& commands) {
  auto o = std::make_shared<bench::LatencyOptions>();
  auto ranks = std::make_shared<RankFlags>();
  CLI::App* app = bench.add_subcommand("latency", "Time of a batch alone: prefill, decode steps, the memory floor");
  AddEngineFlags(app, &o->engine);
  ranks->AddTo(*app);
  app->add_option("--batch-size", o->batch_sizes, "one or several: 1,8,32")
      ->delimiter(',')->check(AtLeast(1))->capture_default_str();
  app->add_option("--input-len", o->input_len, "tokens of a prompt")->check(AtLeast(1))->capture_default_str();
  app->add_option("--output-len", o->output_len, "tokens of an answer")->check(AtLeast(2))->capture_default_str();
  app->add_option("--num-iters-warmup", o->warmups, "runs before those that count")
      ->check(AtLeast(0))->capture_default_str();
  app->add_option("--num-iters", o->iterations, "runs that count")->check(AtLeast(1))->capture_default_str();
  app->add_option("--seed", o->seed)->capture_default_str();
  app->add_option("--quantization", o->quantization, "number format behind the floor, if not the checkpoint's");
  app->add_option("--memory-bandwidth", o->memory_bandwidth_gbs, "GB/s behind the floor; 0: measured");
  app->add_flag("--each-iteration", o->each_iteration, "a line for each, with the read bandwidth right after it");
  app->add_option("--json,--output-json", o->json_file, "write everything that was measured to this file");
  commands.Body(*app, [o, ranks] {
    return OnRanks(*ranks, &o->engine, [&] { return Said(bench::RunLatencyBench(*o)); });
  });
}

void AddBenchThroughput(CLI::App& bench, Commands& commands) {
  auto o = std::make_shared<bench::ThroughputOptions>();
  o->dataset.num_prompts = 128;
  auto ranks = std::make_shared<RankFlags>();
  CLI::App* app = bench.add_subcommand("throughput", "Many requests at once, given to the engine directly");
  AddEngineFlags(app, &o->engine);
  ranks->AddTo(*app);
  app->add_option("--num-prompts", o->dataset.num_prompts, "requests")->check(AtLeast(1))->capture_default_str();
  app->add_option("--input-len,--random-input-len", o->dataset.random_input_len, "tokens of a prompt")
      ->check(AtLeast(1))->capture_default_str();
  app->add_option("--output-len,--random-output-len", o->dataset.random_output_len, "tokens of an answer")
      ->check(AtLeast(1))->capture_default_str();
  app->add_option("--random-range-ratio", o->dataset.random_range_ratio,
                  "lengths are uniform in [len (1 - r), len (1 + r)]")
      ->check(NumberIn(0, 0.999))->capture_default_str();
  app->add_option("--num-iters", o->iterations, "runs of the whole; the median counts")
      ->check(AtLeast(1))->capture_default_str();
  app->add_option("--seed", o->dataset.seed)->capture_default_str();
  app->add_option("--quantization", o->quantization, "number format behind the floor, if not the checkpoint's");
  app->add_option("--json,--output-json", o->json_file, "write everything that was measured to this file");
  commands.Body(*app, [o, ranks] {
    return OnRanks(*ranks, &o->engine, [&] { return Said(bench::RunThroughputBench(*o)); });
  });
}

void AddBenchLoad(CLI::App& bench, Commands& commands) {
  auto o = std::make_shared<bench::LoadBenchOptions>();
  CLI::App* app = bench.add_subcommand("load", "Start-up by phase, to the first token");
  AddEngineFlags(app, &o->engine);
  app->add_option("--input-len", o->input_len, "tokens of the first prompt")->check(AtLeast(1))->capture_default_str();
  app->add_option("--num-iters", o->iterations, "runs that count")->check(AtLeast(1))->capture_default_str();
  app->add_flag("--cold", o->cold, "drop the files from the page cache first");
  app->add_option("--json", o->json_file, "write everything that was measured to this file");
  commands.Body(*app, [o] { return Said(bench::RunLoadBench(*o)); });
}

void AddBenchKernels(CLI::App& bench, Commands& commands) {
  auto o = std::make_shared<bench::KernelBenchOptions>();
  CLI::App* app = bench.add_subcommand("kernels", "Each operator at the released models' shapes");
  app->add_option("--model", o->model, "minimax-m2, mimo-v2-flash, or a folder with config.json")
      ->capture_default_str();
  app->add_option("--quantization", o->quantization, "auto (as a folder's files are, else fp8), fp8, w4, bf16 or f32")
      ->check(CLI::IsMember({"auto", "fp8", "w4", "bf16", "f32"}))->capture_default_str();
  app->add_option("--activations", o->activations, "exact or int8")->check(CLI::IsMember({"exact", "int8"}))
      ->capture_default_str();
  app->add_option("--tokens,--batch-size", o->tokens, "one or several: 1,8,32")
      ->delimiter(',')->check(AtLeast(1))->capture_default_str();
  app->add_option("--context", o->context, "tokens in the cache of each sequence")
      ->check(CLI::Range(0, 1 << 20))->capture_default_str();
  app->add_option("--kv-cache-dtype", o->kv_cache_dtype)->check(CLI::IsMember({"f32", "bf16", "fp8"}))
      ->capture_default_str();
  app->add_option("--threads", o->threads, "0: all cores")->capture_default_str();
  app->add_option("--seconds", o->seconds, "least time spent on one line, half of it reads beside it")
      ->check(NumberIn(0, 3600))->capture_default_str();
  app->add_option("--memory-bandwidth", o->memory_bandwidth_gbs, "GB/s behind the floor; 0: measured");
  app->add_option("--only", o->only, "operators whose name contains this");
  app->add_option("--seed", o->seed)->capture_default_str();
  app->add_option("--json", o->json_file, "write everything that was measured to this file");
  commands.Body(*app, [o] { return Said(bench::RunKernelBench(*o)); });
}

}  // namespace minimo

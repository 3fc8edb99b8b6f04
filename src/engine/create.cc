// Engine::Create: from a checkpoint folder to a running engine.
#include <sched.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/numa.h"
#include "base/thread_team.h"
#include "engine/cuda_backend.h"
#include "engine/engine_thread.h"
#include "engine/kv_plan.h"
#include "engine/load_model.h"
#include "engine/memory.h"
#include "engine/rank_setup.h"
#include "models/kv_layout.h"
#include "models/shard.h"
#include "sampling/generation_config.h"

namespace minimo {
namespace {

// Steps of this many tokens keep a decoding sequence waiting for a fraction of a second at most while prompts run.
constexpr int kCpuBatchedTokens = 512;
// Without a budget the cache takes no more of a shared machine than this, and no more than so many sequences at their
// longest would fill (the prefix cache fills whatever there is in time).
constexpr int64_t kCpuKvBytes = int64_t{4} << 30;
constexpr int64_t kCpuFullSequences = 16;

Result<DType> KvDType(const EngineOptions& options) {
  const std::string& name = options.kv_cache_dtype;
  if (name == "auto") return options.dtype == "bf16" ? DType::kBf16 : DType::kF32;
  if (name == "f32") return DType::kF32;
  if (name == "bf16") return DType::kBf16;
  if (name == "fp8") return DType::kF8E4M3;
  return Errorf("kv_cache_dtype is \"{}\"; it must be auto, f32, bf16 or fp8", name);
}

Status CheckOptions(const EngineOptions& o) {
  if (o.backend != "auto" && o.backend != "cpu" && o.backend != "cuda") {
    return Errorf("backend is \"{}\"; it must be auto, cpu or cuda", o.backend);
  }
  if (o.dtype != "auto" && o.dtype != "f32" && o.dtype != "bf16") {
    return Errorf("dtype is \"{}\"; it must be auto, f32 or bf16", o.dtype);
  }
  if (o.activations != "exact" && o.activations != "int8") {
    return Errorf("activations is \"{}\"; it must be exact or int8", o.activations);
  }
  if (o.activations == "int8" && o.backend == "cuda") return Error{"activations int8 is for the cpu backend"};
  if (o.prefill_activations != "auto" && o.prefill_activations != "bf16" && o.prefill_activations != "fp8") {
    return Errorf("prefill_activations is \"{}\"; it must be auto, bf16 or fp8", o.prefill_activations);
  }
  if (o.load_format != "auto" && o.load_format != "resident" && o.load_format != "dummy") {
    return Errorf("load_format is \"{}\"; it must be auto, resident or dummy", o.load_format);
  }
  if (o.load_format == "resident" && (o.backend == "cuda" || o.activations == "int8")) {
    return Error{"load_format resident is for the cpu backend's exact activations; others make copies of their own"};
  }
  if (o.numa != "off" && o.numa != "isolate" && o.numa != "distribute") {
    return Errorf("numa is \"{}\"; it must be off, isolate or distribute", o.numa);
  }
  if (o.max_num_seqs < 1) return Errorf("max_num_seqs is {}; it must be at least 1", o.max_num_seqs);
  if (o.max_num_batched_tokens != 0 && o.max_num_batched_tokens < 2) {
    return Errorf("max_num_batched_tokens is {}; it must be at least 2, so that prompts and decoding both move",
                  o.max_num_batched_tokens);
  }
  if (o.block_size < 1 || o.block_size > 1024) return Errorf("block_size is {}; it must be in [1, 1024]", o.block_size);
  if (!(o.gpu_memory_utilization > 0 && o.gpu_memory_utilization <= 1)) {
    return Errorf("gpu_memory_utilization is {}; it must be in (0, 1]", o.gpu_memory_utilization);
  }
  if (o.kv_blocks < 0 || o.kv_cache_bytes < 0) return Error{"the size of the KV cache must not be negative"};
  if (o.threads < 0 || o.num_layers < 0 || o.max_queue < 0) {
    return Error{"threads, num_layers and max_queue must not be negative"};
  }
  return {};
}

Result<int> ModelLen(const EngineOptions& options, const ModelSpec& spec) {
  if (options.max_model_len == 0) return spec.max_positions;
  if (options.max_model_len < 2 || options.max_model_len > spec.max_positions) {
    return Errorf("max_model_len is {}; the model takes 2 to {}", options.max_model_len, spec.max_positions);
  }
  return options.max_model_len;
}

// Before any thread starts and any page is touched: both follow.
void IsolateOnNode() {
  const int core = sched_getcpu();
  for (const NumaNode& node : UsableNodes()) {
    if (std::find(node.cores.begin(), node.cores.end(), core) == node.cores.end()) continue;
    if (!KeepToNode(node)) LogWarn("the system does not let this process be kept on memory node {}", node.id);
    return;
  }
  LogWarn("no memory nodes are to be seen here; numa isolate does nothing");
}

int64_t KvBudget(const EngineOptions& options, const KvLayout& geometry, int max_model_len, int ranks_on_host) {
  if (options.kv_cache_bytes > 0) return options.kv_cache_bytes;
  const int64_t available = AvailableMemoryBytes();
  const int64_t most = (available > 0 ? std::min(kCpuKvBytes, available / 2) : kCpuKvBytes) / ranks_on_host;
  const int64_t useful = kCpuFullSequences * max_model_len * geometry.BytesPerToken() +
                         int64_t{2} * options.max_num_seqs * geometry.BytesPerRing();
  return std::min(most, useful);
}

// Everything but the executor: what can go wrong before the ranks meet.
struct Prepared {
  EngineParts parts;
  EngineModel model;
  ParallelPlan plan;
  KvLayout layout;  // of the fullest rank
  DType kv_dtype = DType::kF32;
  bool cuda = false;
};

Result<Prepared> Prepare(const EngineOptions& options) {
  MINIMO_TRY(CheckOptions(options));
  if (options.numa == "isolate") IsolateOnNode();
  Prepared prepared;
  MINIMO_ASSIGN(prepared.kv_dtype, KvDType(options));
  MINIMO_ASSIGN(EngineModel loaded, LoadEngineModel(options));
  prepared.model = loaded;
  const ModelSpec& spec = loaded.model->spec;
  MINIMO_ASSIGN(GenerationConfig generation, LoadGenerationConfig(loaded.text_folder));
  MINIMO_ASSIGN(prepared.plan, PlanFor(options, *loaded.model));
  prepared.cuda = WantsCuda(options) && (prepared.plan.ranks == 1 || options.ranks != nullptr);
  if (options.backend == "cuda" && !prepared.cuda) {
    return Errorf("the cuda backend wants a process for each GPU: minimo launch -n {} -- serve ... instead of {} ranks "
                  "in one process", prepared.plan.ranks, prepared.plan.ranks);
  }

  EngineParts& parts = prepared.parts;
  parts.model = loaded.model;
  parts.spec = spec;
  parts.default_params = std::move(generation.params);
  parts.eos_ids = generation.eos_ids.empty() ? spec.eos_token_ids : std::move(generation.eos_ids);
  MINIMO_ASSIGN(parts.tokenizer, Tokenizer::FromFolder(loaded.text_folder));
  MINIMO_ASSIGN(const int max_model_len, ModelLen(options, spec));

  const KvLayout geometry = MakeKvLayout(RankSpec(spec, prepared.plan, 0), prepared.kv_dtype, options.block_size);
  KvPlanOptions plan_options;
  plan_options.budget_bytes = KvBudget(options, geometry, max_model_len, RanksOnHost(options, prepared.plan));
  plan_options.num_blocks = options.kv_blocks;
  const int replicas = prepared.plan.replicas;
  plan_options.max_num_seqs = (options.max_num_seqs + replicas - 1) / replicas;
  plan_options.max_model_len = max_model_len;
  plan_options.prefix_caching = options.enable_prefix_caching;
  KvPlan plan;
  int batched_tokens = kCpuBatchedTokens;
  if (prepared.cuda) {
    plan_options.budget_bytes = options.kv_cache_bytes;
    MINIMO_ASSIGN(plan, PlanCudaKv(options, loaded, prepared.plan, plan_options));
    batched_tokens = CudaBatchedTokens(options);
    parts.scheduler.lookahead = 1;  // the device begins the next step early
  } else {
    MINIMO_ASSIGN(plan, PlanKv(geometry, plan_options));
  }
  if (plan.max_num_seqs < plan_options.max_num_seqs) {
    LogWarn("the KV cache holds the windows of {} sequences, not of {}: at most that many run at once",
            plan.max_num_seqs * replicas, options.max_num_seqs);
  }
  prepared.layout = plan.layout;
  parts.replicas = replicas;
  parts.scheduler.max_num_seqs = plan.max_num_seqs * replicas;
  parts.scheduler.max_num_batched_tokens =
      options.max_num_batched_tokens > 0 ? options.max_num_batched_tokens : batched_tokens;
  parts.scheduler.max_model_len = max_model_len;
  parts.scheduler.chunked_prefill = options.enable_chunked_prefill;
  parts.kv.prefix_caching = options.enable_prefix_caching;
  parts.max_queue = options.max_queue;
  return prepared;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options) {
  const PatientRanks patience(options);
  auto prepared = Prepare(options);
  MINIMO_TRY(AgreeOn(options.ranks.get(), prepared.ok() ? Status() : Status(prepared.error())));
  EngineParts parts = std::move(prepared->parts);
  LogInfo("{}", Describe(prepared->layout));
  MINIMO_ASSIGN(RankedExecutor ranked, MakeRankedExecutor(options, prepared->model, prepared->cuda, prepared->plan,
                                                          prepared->layout, prepared->kv_dtype));
  parts.executor = std::move(ranked.executor);
  parts.team = ranked.team;
  return std::unique_ptr<Engine>(std::make_unique<EngineThread>(std::move(parts)));
}

}  // namespace minimo

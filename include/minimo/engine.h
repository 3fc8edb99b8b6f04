// The engine: owns a model, runs many requests at once. Thread-safe: any thread may submit and cancel; one engine
// thread of its own runs the model and calls the sinks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "minimo/request.h"
#include "minimo/result.h"

namespace minimo {

class EngineObserver;
class Communicator;
class Tokenizer;
struct ModelSpec;

struct EngineOptions {
  std::string model;                // a checkpoint folder in the Hugging Face layout, or a shipped model's name
  std::string backend = "auto";     // auto, cpu, cuda
  std::string dtype = "auto";       // auto, f32, bf16: activations
  std::string activations = "exact";    // exact, int8: of linear layers on the CPU (docs/cpu.md)
  std::string kv_cache_dtype = "auto";  // auto, f32, bf16, fp8
  // CUDA: what a prompt's products take. fp8 (e4m3 by 128 columns, on FP8 tensor cores) where the weights are FP8 or
  // 4 bits; auto: bf16.
  std::string prefill_activations = "auto";  // auto, bf16, fp8
  // auto; resident: on the CPU, matrices copied out of their files, 4-bit ones with exact activations into a layout
  // that is read faster; dummy: random weights of the config's shapes, no files read.
  std::string load_format = "auto";
  int threads = 0;                  // 0: all cores
  // CPU, machines of several memory nodes. isolate: the cores and the memory of the node that this thread runs on;
  // distribute: threads on all of them, each matrix's rows beside the threads that multiply them.
  std::string numa = "off";         // off, isolate, distribute
  int num_layers = 0;               // 0: all; N: only the first N, for benches
  int max_model_len = 0;            // 0: the model's own
  int max_num_seqs = 256;           // sequences in one step
  int max_num_batched_tokens = 0;   // token budget of one step; 0: chosen by backend
  int64_t kv_cache_bytes = 0;       // a rank; 0: chosen from free memory
  double gpu_memory_utilization = 0.94;  // CUDA: share of what is free for weights, buffers and KV cache, if chosen
  int kv_blocks = 0;                // overrides kv_cache_bytes: blocks of the full-attention pool
  int block_size = 16;              // tokens a block
  bool enable_prefix_caching = true;
  bool enable_chunked_prefill = true;
  int max_queue = 0;                // waiting requests beyond which Submit refuses; 0: no limit

  // Many ranks. Null: the ranks are threads of this process. Else the processes that share the model: rank 0 of them
  // creates the engine, the others call FollowEngine with the same options.
  std::shared_ptr<Communicator> ranks;
  int tensor_parallel_size = 0;         // ranks that share the model; 0: all of `ranks`, or 1
  int data_parallel_size = 1;           // replicas of attention, of tensor_parallel_size ranks each, with requests of
                                        // their own; all ranks share the experts
  bool enable_expert_parallel = false;  // experts whole on their ranks, in both phases
  std::string moe_prefill;              // how ranks share the experts: tp, ep, TxE; "": chosen
  std::string moe_decode;
  int rank_timeout_ms = 0;              // how long a silent rank is waited for; 0: 8 s
};

// A snapshot for metrics and dashboards; cheap, taken without stopping the engine.
struct EngineStats {
  int running = 0;
  int waiting = 0;
  double kv_usage = 0;              // 0..1 of the fullest pool
  int64_t kv_capacity_tokens = 0;   // of the full-attention pool
  int64_t steps = 0;
  int64_t prompt_tokens = 0;        // computed or cached, since start
  int64_t generation_tokens = 0;
  int64_t preemptions = 0;
  int64_t prefix_queries = 0;       // tokens looked up
  int64_t prefix_hits = 0;          // tokens found
  int64_t last_step_us = 0;
  int64_t last_step_tokens = 0;
};

// What Submit's error begins with when max_queue is the reason: the one refusal that passes by itself.
inline constexpr char kQueueFull[] = "the queue is full";

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> Create(const EngineOptions& options);
  virtual ~Engine() = default;  // cancels what runs, joins the engine thread

  // Queues a request; its events go to `sink`, the last one of each choice with finish != kNone. An invalid request
  // (empty, over-long, a duplicate id, parameters out of range, one that can never fit) is refused here in words and
  // the sink is never called. Returns the request's id.
  virtual Result<std::string> Submit(Request request, EventSink sink) = 0;

  // Ends a request with FinishReason::kCancelled at the next step. Unknown or finished ids: nothing happens.
  virtual void Cancel(const std::string& id) = 0;

  virtual EngineStats Stats() const = 0;

  // Told of every step and every finished request from now on (engine_observer.h); null: nobody is. When this returns,
  // the one before is no longer used.
  virtual void SetObserver(std::shared_ptr<EngineObserver> observer) = 0;

  // Tokens routed to each expert since start: [moe layers][experts], row-major; 0 x 0 if there are none.
  struct ExpertLoad {
    int layers = 0;
    int experts = 0;
    std::vector<int64_t> counts;
  };
  virtual ExpertLoad GetExpertLoad() const = 0;

  virtual const Tokenizer& tokenizer() const = 0;
  virtual const ModelSpec& model() const = 0;
  virtual const SamplingParams& default_params() const = 0;  // from generation_config.json
  virtual int max_model_len() const = 0;

  // False once the engine has met a fault it cannot recover from; Submit then refuses.
  virtual bool Healthy() const = 0;
};

// A follower's part of options.ranks: loads its share, computes what rank 0's engine asks for and returns when that
// engine ends (OK) or when a rank is lost.
Status FollowEngine(const EngineOptions& options);

}  // namespace minimo

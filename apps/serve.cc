// minimo serve: the HTTP server.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>

#include "apps/commands.h"
#include "apps/flag_checks.h"
#include "apps/rank_flags.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread_team.h"
#include "comm/communicator.h"
#include "minimo/engine.h"
#include "models/loader.h"
#include "server/auth.h"
#include "server/server.h"
#include "server/template_chat.h"

namespace minimo {
namespace {

constexpr double kMostGb = 1e6, kMostSeconds = 1e6;

struct Flags {
  CommonFlags common;
  EngineOptions engine;
  RankFlags ranks;
  server::ServerOptions server;
  std::vector<std::string> api_keys;
  std::string api_key_file;
  std::vector<std::string> origins;
  double drain_timeout_s = 30;
  double idle_timeout_s = 75;
  double body_timeout_s = 60;
  double write_timeout_s = 30;
  double keep_alive_s = 15;
  double kv_cache_gb = 0;
};

void AddEngineFlags(CLI::App& app, Flags& f) {
  EngineOptions& e = f.engine;
  app.add_option("--max-model-len", e.max_model_len, "Longest prompt and answer together; 0: the model's own");
  app.add_option("--max-num-seqs", e.max_num_seqs, "Sequences in one step")
      ->check(AtLeast(1))->capture_default_str();
  app.add_option("--max-num-batched-tokens", e.max_num_batched_tokens, "Tokens in one step; 0: chosen");
  app.add_option("--kv-cache-dtype", e.kv_cache_dtype, "auto, f32, bf16 or fp8")->capture_default_str();
  app.add_option("--prefill-activations", e.prefill_activations, "CUDA: auto, bf16 or fp8 (of FP8 and 4-bit weights)")
      ->check(CLI::IsMember({"auto", "bf16", "fp8"}))->capture_default_str();
  app.add_option("--kv-cache-gb", f.kv_cache_gb, "Memory of the KV cache in GB; 0: chosen from what is free")
      ->check(NumberIn(0, kMostGb));
  app.add_option("--gpu-memory-utilization", e.gpu_memory_utilization,
                 "CUDA: share of the free memory for weights, buffers and KV cache")
      ->check(NumberIn(0.01, 1))->capture_default_str();
  app.add_option("--num-gpu-blocks-override", e.kv_blocks, "Blocks of the KV cache, instead of its memory")
      ->check(AtLeast(0));
  app.add_option("--block-size", e.block_size, "Tokens in a KV block")->capture_default_str();
  app.add_flag("--enable-prefix-caching,!--no-enable-prefix-caching", e.enable_prefix_caching,
               "Prompts that begin alike are computed once");
  app.add_flag("--enable-chunked-prefill,!--no-enable-chunked-prefill", e.enable_chunked_prefill,
               "Long prompts share their steps with decoding");
  app.add_option("--numa", e.numa, "CPU, several memory nodes: isolate (on one of them), distribute (rows over all)")
      ->check(CLI::IsMember({"off", "isolate", "distribute"}))->capture_default_str();
  app.add_option("--load-format", e.load_format,
                 "auto (CPU: mapped), resident (CPU: copied to memory of its own, exact 4-bit weights laid out for "
                 "speed) or dummy (random weights)")->capture_default_str();
}

void AddServerFlags(CLI::App& app, Flags& f) {
  server::HttpServerOptions& http = f.server.http;
  app.add_option("--host", http.host, "Address to listen on")->capture_default_str();
  app.add_option("--port", http.port, "0: any free one")->check(CLI::Range(0, 65535))->capture_default_str();
  app.add_option("--served-model-name", f.server.served_model_names, "Names that requests may use; the first is shown");
  app.add_option("--api-key", f.api_keys, "Keys of which clients must bring one; also $MINIMO_API_KEY");
  app.add_option("--api-key-file", f.api_key_file, "File with one key a line");
  app.add_option("--allowed-origins", f.origins, "CORS: web origins that may call, or '*'; a JSON array as in vLLM");
  app.add_option("--max-queue", f.server.max_queue, "Sequences that may wait; beyond: 429. 0: no limit")
      ->check(AtLeast(0))->capture_default_str();
  app.add_option("--max-connections", http.max_connections, "Connections at once; beyond: 503")
      ->check(CLI::Range(1, 1000000))->capture_default_str();
  app.add_option("--max-body-bytes", http.max_body_bytes, "Longest request; beyond: 413")
      ->check(CLI::Range(1024, 1 << 30))->capture_default_str();
  app.add_option("--io-threads", http.io_threads, "Threads of the connections; 0: a quarter of the cores, 2 to 4")
      ->check(CLI::Range(0, 64))->capture_default_str();
  app.add_option("--drain-timeout", f.drain_timeout_s, "Seconds that running requests get after SIGTERM")
      ->check(NumberIn(0, kMostSeconds))->capture_default_str();
  app.add_option("--idle-timeout", f.idle_timeout_s, "Seconds for a request's header to arrive")
      ->check(NumberIn(0.001, kMostSeconds))->capture_default_str();
  app.add_option("--body-timeout", f.body_timeout_s, "Seconds for its body")
      ->check(NumberIn(0.001, kMostSeconds))->capture_default_str();
  app.add_option("--write-timeout", f.write_timeout_s, "Seconds for a client to read what is written")
      ->check(NumberIn(0.001, kMostSeconds))->capture_default_str();
  app.add_option("--keep-alive", f.keep_alive_s, "Seconds of silence in a stream before a comment line")
      ->check(NumberIn(0.001, kMostSeconds))->capture_default_str();
}

// vLLM takes '["https://a", "https://b"]'.
Result<std::vector<std::string>> Origins(const std::vector<std::string>& given) {
  std::vector<std::string> origins;
  for (const std::string& text : given) {
    if (!text.starts_with('[')) {
      origins.push_back(text);
      continue;
    }
    const auto list = nlohmann::json::parse(text, nullptr, false);
    const bool strings =
        list.is_array() && std::all_of(list.begin(), list.end(), [](auto& i) { return i.is_string(); });
    if (!strings) return Errorf("--allowed-origins {}: expected an origin, '*' or a JSON array of origins", text);
    for (const auto& item : list) origins.push_back(item.get<std::string>());
  }
  return origins;
}

std::string ShownModelName(const std::string& model) {
  std::string name = model;
  while (name.size() > 1 && name.back() == '/') name.pop_back();
  const size_t slash = name.rfind('/');
  return slash == std::string::npos ? name : name.substr(slash + 1);
}

int Ms(double seconds) { return static_cast<int>(seconds * 1000); }

// Waits for one of the signals; 0 if a rank is lost before.
int WaitForEnd(const sigset_t& signals, const EngineOptions& options) {
  constexpr timespec kLook{0, 200'000'000};  // how often the ranks are looked at
  while (!LostRank(options)) {
    const int signal = sigtimedwait(&signals, nullptr, &kLook);
    if (signal > 0) return signal;
  }
  return 0;
}

// Without destroying the engine: its thread may be in a call that does not return.
[[noreturn]] void EndLost(const std::string& why) {
  fmt::print(stderr, "minimo: {}\n", why);
  std::fflush(stdout);
  std::_Exit(1);
}

Status Body(Flags& f) {
  const int64_t begin_us = SteadyClock().NowUs();
  // These are waited for below, in this thread; every other thread, MPI's too, must leave them alone.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals, signal);  // mpirun forwards SIGUSR1
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  // Before the ranks meet: each finds the same fault.
  server::ServerOptions& options = f.server;
  MINIMO_ASSIGN(options.api_keys, server::CollectApiKeys(f.api_keys, f.api_key_file));
  MINIMO_ASSIGN(options.allowed_origins, Origins(f.origins));
  for (const std::string& name : options.served_model_names) {
    if (name.empty()) return Error{"--served-model-name is empty; give a name or leave the flag out"};
  }
  MINIMO_ASSIGN(const std::string folder, ResolveModelFolder(f.common.model));
  MINIMO_TRY(f.common.CheckQuantization(folder));

  EngineOptions& engine_options = f.engine;
  engine_options.model = f.common.model;
  engine_options.backend = f.common.backend;
  engine_options.dtype = f.common.dtype;
  engine_options.activations = f.common.activations;
  engine_options.threads = f.common.threads;
  if (f.kv_cache_gb > 0) engine_options.kv_cache_bytes = static_cast<int64_t>(f.kv_cache_gb * 1e9);
  MINIMO_TRY(f.ranks.Fill(&engine_options));
  if (Follows(engine_options)) return Follow(engine_options);
  if (engine_options.threads == 0 && engine_options.ranks == nullptr && engine_options.tensor_parallel_size <= 1) {
    const int cores = AvailableCores();
    const int io_threads = f.server.http.io_threads;
    engine_options.threads =
        server::EngineThreadsBeside(io_threads > 0 ? io_threads : server::DefaultIoThreads(cores), cores);
  }

  if (options.served_model_names.empty()) options.served_model_names = {ShownModelName(f.common.model)};
  options.max_num_seqs = engine_options.max_num_seqs;
  options.drain_timeout_ms = Ms(f.drain_timeout_s);
  options.http.idle_timeout_ms = Ms(f.idle_timeout_s);
  options.http.body_timeout_ms = Ms(f.body_timeout_s);
  options.http.write_timeout_ms = Ms(f.write_timeout_s);
  options.http.keep_alive_comment_ms = Ms(f.keep_alive_s);
  options.cache = {engine_options.block_size, engine_options.enable_prefix_caching, engine_options.kv_cache_dtype};

  MINIMO_ASSIGN(const std::unique_ptr<Engine> engine, Engine::Create(engine_options));
  MINIMO_ASSIGN(const auto chat, server::TemplateChat::Load(folder, *engine));
  server::Server server(*engine, *chat, options);
  MINIMO_TRY(server.Start());
  fmt::print("listening on http://{}:{}\nmodel {} ({}), context {} tokens, KV cache {} tokens\nready in {:.2f} s\n",
             options.http.host, server.port(), options.served_model_names[0], folder, engine->max_model_len(),
             engine->Stats().kv_capacity_tokens, static_cast<double>(SteadyClock().NowUs() - begin_us) * 1e-6);
  if (options.api_keys.empty() && options.http.host != "127.0.0.1" && options.http.host != "localhost") {
    LogWarn("no --api-key: anybody who reaches {} may use the model", options.http.host);
  }
  std::fflush(stdout);

  const int signal = WaitForEnd(signals, engine_options);
  if (signal == 0) {
    server.Drain();  // the engine answers every request with the error
    EndLost(engine_options.ranks->failure().message);
  }
  LogInfo("signal {}: no new connections; requests in progress have {} s", signal, f.drain_timeout_s);
  // A second signal does not wait, but for SIGUSR1, which the launcher and its mpirun may both have sent.
  std::signal(SIGUSR1, SIG_IGN);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  std::signal(SIGTERM, [](int) { std::_Exit(0); });
  std::signal(SIGINT, [](int) { std::_Exit(0); });
  const int cut = server.Drain();
  LogInfo("drained; {} connections were cut", cut);
  if (LostRank(engine_options)) EndLost("a rank was lost; the server answered what it could");
  return {};
}

}  // namespace

void AddServe(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command =
      commands.Add("serve", "Serve a model over HTTP: the OpenAI and Anthropic APIs, metrics, a web page");
  flags->common.AddModelArgument(command);
  flags->common.AddRuntimeFlags(command);
  flags->ranks.AddTo(command);
  AddEngineFlags(command, *flags);
  AddServerFlags(command, *flags);
  commands.Body(command, [flags, &command] {
    // A server tells what it does; the other commands' default is to tell what went wrong.
    if (command.get_parent()->get_option("--log-level")->count() == 0) SetLogLevel(LogLevel::kInfo);
    return Body(*flags);
  });
}

}  // namespace minimo

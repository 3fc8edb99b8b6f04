// minimo bench serve: a load generator for any OpenAI-compatible server.
#include <algorithm>
#include <map>
#include <memory>

#include "apps/bench.h"
#include "bench/serve_bench.h"

namespace minimo {
namespace {

using bench::RampUp;
using bench::ServeBenchOptions;

struct Flags {
  ServeBenchOptions options;
  std::map<std::string, double> sampling;
  uint64_t seed = 0;
  bool quiet = false;
  int input_len = 0;
  int output_len = 0;
};

void AddTarget(CLI::App* app, Flags* f) {
  ServeBenchOptions& o = f->options;
  app->add_option("--backend", o.backend,
                  "openai, vllm, sglang, llama.cpp, minimo: /v1/completions; openai-chat: chat");
  app->add_option("--base-url", o.base_url, "http://HOST:PORT of the server, instead of --host and --port");
  app->add_option("--host", o.host)->capture_default_str();
  app->add_option("--port", o.port)->capture_default_str();
  app->add_option("--endpoint", o.endpoint, "path of the API; by default the backend's");
  app->add_option("--model", o.model, "name or folder of the model; by default the server's first");
  app->add_option("--served-model-name", o.served_model_name, "name of the model in requests, if another");
  app->add_option("--tokenizer", o.tokenizer, "folder with tokenizer.json; by default the model's, if it is here");
  app->add_option("--header", o.headers, "KEY=VALUE headers for every request")->expected(0, -1);
  app->add_option("--ready-check-timeout-sec", o.ready_check_timeout_s, "wait for the server this long; 0: do not");
  app->add_option("--request-timeout-sec", o.load.request_timeout_s, "the longest a request may take");
}

void AddWorkload(CLI::App* app, Flags* f) {
  ServeBenchOptions& o = f->options;
  app->add_option("--dataset-name", o.dataset.name, "random, sharegpt, custom (or file)")->capture_default_str();
  app->add_option("--dataset-path", o.dataset.path, "sharegpt: JSON; custom: a JSON object with \"prompt\" a line");
  app->add_option("--num-prompts", o.dataset.num_prompts)->capture_default_str();
  app->add_option("--seed", f->seed)->capture_default_str();
  app->add_option("--input-len", f->input_len, "the dataset's input length");
  app->add_option("--output-len", f->output_len, "the dataset's output length");
  app->add_option("--random-input-len", o.dataset.random_input_len)->capture_default_str();
  app->add_option("--random-output-len", o.dataset.random_output_len)->capture_default_str();
  app->add_option("--random-range-ratio", o.dataset.random_range_ratio,
                  "lengths are uniform in [len (1 - r), len (1 + r)]");
  app->add_option("--random-prefix-len", o.dataset.random_prefix_len, "tokens that all prompts share");
  app->add_option("--vocab-size", o.dataset.vocab_size, "without a tokenizer: ids of random prompts lie below it");
  app->add_option("--sharegpt-output-len", o.dataset.sharegpt_output_len, "instead of the answers' own lengths");
  app->add_option("--custom-output-len", o.dataset.custom_output_len)->capture_default_str();
  app->add_flag("--skip-chat-template", o.dataset.skip_chat_template, "custom: send the prompts as they are");
  app->add_flag("--disable-shuffle", o.dataset.disable_shuffle, "keep the order of the file");
  app->add_flag("--no-oversample", o.dataset.no_oversample, "do not repeat a file that is too short");
  app->add_option("--request-id-prefix", o.dataset.id_prefix);
  app->add_option("--num-warmups", o.num_warmups, "requests before the measurement");
  app->add_option("--max-concurrency", o.load.max_concurrency, "requests in flight at most");
  app->add_option("--request-rate", o.arrivals.request_rate, "requests a second; inf: all at once")
      ->capture_default_str();
  app->add_option("--burstiness", o.arrivals.burstiness, "shape of the gamma distributed gaps; 1: Poisson");
  app->add_option("--ramp-up-strategy", o.arrivals.ramp_up, "linear or exponential")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, RampUp>{{"linear", RampUp::kLinear}, {"exponential", RampUp::kExponential}}));
  app->add_option("--ramp-up-start-rps", o.arrivals.ramp_up_start_rps);
  app->add_option("--ramp-up-end-rps", o.arrivals.ramp_up_end_rps);
}

void AddRequestFields(CLI::App* app, Flags* f) {
  ServeBenchOptions& o = f->options;
  app->add_flag("--ignore-eos", o.load.generation.ignore_eos, "always on for random prompts");
  app->add_option("--logprobs", o.load.generation.logprobs);
  app->add_option("--extra-body", o.extra_body, "a JSON object of further fields");
  for (const char* name :
       {"temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"}) {
    std::string flag = std::string("--") + name;
    std::replace(flag.begin(), flag.end(), '_', '-');
    app->add_option_function<double>(flag, [f, name](double value) { f->sampling[name] = value; });
  }
}

void AddOutput(CLI::App* app, Flags* f) {
  ServeBenchOptions& o = f->options;
  app->add_option("--percentile-metrics", o.percentile_metrics, "of ttft,tpot,itl,e2el,client_queue_time")
      ->capture_default_str();
  app->add_option("--metric-percentiles", o.metric_percentiles)->capture_default_str();
  app->add_option("--goodput", o.goodput, "service levels: ttft:MS tpot:MS e2el:MS")->expected(1, 3);
  app->add_option("--label", o.label, "prefix of the result file");
  app->add_option("--metadata", o.metadata, "KEY=VALUE pairs for the result")->expected(0, -1);
  app->add_flag("--save-result", o.save_result, "write the result as JSON");
  app->add_flag("--save-detailed", o.save_detailed, "with every request's figures");
  app->add_flag("--append-result", o.append_result, "append it to the file");
  app->add_option("--result-dir", o.result_dir);
  app->add_option("--result-filename", o.result_filename);
  app->add_option("--json", o.json_file, "write everything that was measured to this file");
  app->add_option("--memory-bandwidth", o.memory_bandwidth,
                  "GB/s behind the floor; auto: measured if the server is on this machine; none")
      ->capture_default_str();
  app->add_option("--quantization", o.quantization, "number format the server runs, if not the checkpoint's");
  app->add_flag("--allow-failures", o.allow_failures, "exit 0 although requests failed");
  app->add_flag("--disable-tqdm", f->quiet, "no progress line");
}

Status Run(const Flags& flags) {
  ServeBenchOptions o = flags.options;
  o.dataset.seed = o.arrivals.seed = flags.seed;
  if (flags.input_len > 0) o.dataset.random_input_len = flags.input_len;
  if (flags.output_len > 0) {
    o.dataset.random_output_len = o.dataset.custom_output_len = flags.output_len;
    o.dataset.sharegpt_output_len = flags.output_len;
  }
  o.load.show_progress = !flags.quiet;
  for (const auto& pair : flags.sampling) o.sampling.push_back(pair);
  MINIMO_ASSIGN(const bool clean, bench::RunServeBench(o));
  if (!clean) return Error{};  // said already
  return {};
}

}  // namespace

void AddBenchServe(CLI::App& bench, Commands& commands) {
  CLI::App* app = bench.add_subcommand("serve", "Load an OpenAI-compatible server and measure its answers");
  auto flags = std::make_shared<Flags>();
  AddTarget(app, flags.get());
  AddWorkload(app, flags.get());
  AddRequestFields(app, flags.get());
  AddOutput(app, flags.get());
  commands.Body(*app, [flags] { return Run(*flags); });
}

}  // namespace minimo

// `minimo bench serve`: a workload against any OpenAI-compatible server, measured from the client's side.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bench/arrivals.h"
#include "bench/dataset.h"
#include "bench/load_generator.h"
#include "minimo/result.h"

namespace minimo::bench {

// Names and meanings of vLLM's flags.
struct ServeBenchOptions {
  std::string backend = "openai";  // vllm, openai, sglang, llama.cpp, minimo: completions; openai-chat: chat
  std::string label;
  std::string base_url;            // empty: http://host:port
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string endpoint;            // empty: the backend's
  std::string model;               // empty: the server's first
  std::string served_model_name;   // the name in requests, if not `model`
  std::string tokenizer;           // a folder with tokenizer.json; empty: `model`, if it is one
  std::vector<std::string> headers;   // KEY=VALUE
  std::vector<std::string> metadata;  // KEY=VALUE, into the result
  DatasetOptions dataset;
  ArrivalOptions arrivals;
  LoadOptions load;                // the rest of it is filled in by RunServeBench
  int num_warmups = 0;
  double ready_check_timeout_s = 0;
  std::string percentile_metrics = "ttft,tpot,itl";
  std::string metric_percentiles = "99";
  std::vector<std::string> goodput;
  std::vector<std::pair<std::string, double>> sampling;  // temperature, top_p ...: into every request
  std::string extra_body;
  std::string memory_bandwidth = "auto";  // GB/s behind the floor; auto: measured when the server is on this machine
  std::string quantization;               // the server's number format where it differs from the checkpoint's
  bool save_result = false;
  bool save_detailed = false;
  bool append_result = false;
  std::string result_dir;
  std::string result_filename;
  std::string json_file;           // the result in full, whatever the flags above say
  bool allow_failures = false;
};

// Prints the result block. False if a request failed and that was not allowed, or the user stopped the run. An error
// is one of usage, of files, or a server that could not even be asked for its model.
Result<bool> RunServeBench(const ServeBenchOptions& options);

}  // namespace minimo::bench

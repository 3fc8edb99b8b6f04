#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace minimo::bench {

// One request of a workload.
struct SampleRequest {
  std::string id;
  std::string prompt;               // text; empty if the prompt is ids
  std::vector<int32_t> prompt_ids;  // for servers' /v1/completions, when no tokenizer is at hand
  int prompt_len = 0;               // tokens, as far as the client knows; the server's count replaces it
  int output_len = 0;               // tokens to ask for; 0: leave it to the server
};

// What became of it. Times in seconds on the steady clock.
struct Outcome {
  bool started = false;
  bool success = false;
  bool interrupted = false;  // still running when the user stopped the benchmark
  std::string error;
  std::string text;
  int prompt_len = 0;
  int output_tokens = 0;    // as the server's usage says; without one, the chunks that carried a choice
  double start_time = 0;    // the request begins to be sent (a new connection included)
  double queue_time = 0;    // waited in the client for --max-concurrency before that
  double ttft = 0;          // from start_time to the first chunk
  double latency = 0;       // from start_time to the last chunk with a choice
  std::vector<double> itl;  // between successive chunks
};

}  // namespace minimo::bench

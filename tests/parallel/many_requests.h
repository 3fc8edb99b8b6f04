// Requests of all kinds at once under continuous batching: what one rank says to each alone, many ranks must say to all
// together.
#pragma once

#include <string>
#include <thread>
#include <vector>

#include "minimo/engine.h"
#include "minimo/stream.h"
#include "minimo/tokenizer.h"
#include "tests/support/repo_dir.h"

namespace minimo::testing {

inline EngineOptions ManyRequestsOptions(const std::string& model) {
  EngineOptions options;
  options.model = (RepoDir() / "models" / model).string();
  options.max_model_len = 256;
  options.max_num_seqs = 8;
  options.max_num_batched_tokens = 32;  // prompts in chunks beside decoding sequences
  options.kv_blocks = 40;               // too few for all: some are preempted
  options.threads = 1;
  return options;
}

inline std::vector<Request> ManyRequests(const Tokenizer& tokenizer) {
  const std::string prompts[] = {"What is 17 plus 25?", "Write a haiku about the ocean.", "The capital of France is",
                                 "Once upon a time", "What is 3 times 9? Answer briefly.", "Hello",
                                 "Name three colours and say which you like best.", "Repeat after me: one two three"};
  std::vector<Request> requests;
  for (int i = 0; i < 16; ++i) {
    Request request;
    request.prompt_ids = *tokenizer.Encode(prompts[i % 8] + (i < 8 ? "" : " Please."));
    request.params.temperature = i % 4 < 2 ? 0 : 0.9;
    request.params.seed = static_cast<uint64_t>(i);
    if (i % 4 == 2) request.params.top_k = 40;       // candidates decide
    if (i % 4 == 3) request.params.top_p = 0.95;     // mostly
    if (i == 5) request.params.logprobs = 4;
    if (i == 6) request.params.repetition_penalty = 1.2;  // whole rows
    if (i == 10) request.params.top_p = 1, request.params.top_k = 0;
    if (i == 3 || i == 11) request.n = 3;
    request.params.max_tokens = 12 + i;
    request.params.ignore_eos = i % 2 == 0;
    requests.push_back(std::move(request));
  }
  return requests;
}

inline std::string Text(Engine& engine, const Request& request) {
  auto stream = Stream::Submit(engine, request);
  if (!stream.ok()) return "refused: " + stream.error().message;
  std::vector<std::string> texts(static_cast<size_t>(request.n));
  while (auto event = (*stream)->Next()) {
    texts[static_cast<size_t>(event->choice)] += event->text;
    if (event->finish == FinishReason::kError) return "failed: " + event->error;
  }
  std::string all;
  for (const std::string& text : texts) all += text + "|";
  return all;
}

// All in flight together.
inline std::vector<std::string> Texts(Engine& engine, const std::vector<Request>& requests) {
  std::vector<std::string> texts(requests.size());
  std::vector<std::thread> clients;
  for (size_t i = 0; i < requests.size(); ++i) {
    clients.emplace_back([&, i] { texts[i] = Text(engine, requests[i]); });
  }
  for (std::thread& client : clients) client.join();
  return texts;
}

}  // namespace minimo::testing

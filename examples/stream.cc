// Submit, stream, cancel: prints a completion as it comes, and cancels it after LIMIT tokens.
//   stream MODEL PROMPT [LIMIT]
#include <cstdlib>
#include <iostream>

#include "minimo/engine.h"
#include "minimo/stream.h"
#include "minimo/tokenizer.h"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: stream MODEL PROMPT [LIMIT]\n";
    return 2;
  }
  const auto fail = [](const minimo::Error& error) {
    std::cerr << error.message << "\n";
    return 1;
  };
  minimo::EngineOptions options;
  options.model = argv[1];
  auto engine = minimo::Engine::Create(options);
  if (!engine.ok()) return fail(engine.error());

  auto prompt = (*engine)->tokenizer().Encode(argv[2]);
  if (!prompt.ok()) return fail(prompt.error());
  minimo::Request request;
  request.prompt_ids = std::move(*prompt);
  request.params = (*engine)->default_params();
  request.params.temperature = 0;
  auto stream = minimo::Stream::Submit(**engine, std::move(request));
  if (!stream.ok()) return fail(stream.error());

  const int limit = argc > 3 ? std::atoi(argv[3]) : 64;
  while (auto event = (*stream)->Next()) {
    std::cout << event->text << std::flush;
    if (event->usage.completion_tokens >= limit) (*stream)->Cancel();
    if (event->finish == minimo::FinishReason::kNone) continue;
    const int tokens = event->usage.completion_tokens;
    std::cout << "\n[" << minimo::ToString(event->finish) << " after " << tokens << " tokens]\n";
  }
  return 0;
}

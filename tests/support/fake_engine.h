// An engine without a model: deterministic text at a programmable pace, with programmable faults. The server's tests
// run against it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "minimo/engine.h"
#include "minimo/tokenizer.h"

namespace minimo::testing {

struct FakeEngineOptions {
  std::string model;              // folder whose tokenizer is used
  int64_t step_us = 1000;         // pause before each step
  int max_model_len = 4096;
  int max_num_seqs = 256;         // sequences in a step; others wait
  int default_length = 32;        // tokens of an answer that max_tokens does not end
  // What a prompt is answered with; "" or none: words drawn from the prompt's hash.
  std::function<std::string(const std::string& prompt)> script;
};

// A prompt that contains one of these words meets the fault after 3 tokens.
inline constexpr char kFaultError[] = "FAULT_ERROR";  // Event::error
inline constexpr char kFaultDown[] = "FAULT_DOWN";    // the same, and the engine is unhealthy from then on

class FakeEngine final : public Engine {
 public:
  static Result<std::unique_ptr<FakeEngine>> Create(FakeEngineOptions options);
  ~FakeEngine() override;

  Result<std::string> Submit(Request request, EventSink sink) override;
  void Cancel(const std::string& id) override;
  EngineStats Stats() const override;
  void SetObserver(std::shared_ptr<EngineObserver> observer) override;
  ExpertLoad GetExpertLoad() const override;
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const ModelSpec& model() const override { return *model_; }
  const SamplingParams& default_params() const override { return default_params_; }
  int max_model_len() const override { return options_.max_model_len; }
  bool Healthy() const override;

  void RestoreHealth();
  int live() const;  // requests not ended

 private:
  struct Live;

  explicit FakeEngine(FakeEngineOptions options);
  void Loop();
  void Step(std::vector<std::shared_ptr<Live>> batch);
  bool Advance(Live& live, int choice);  // true: the choice has ended

  FakeEngineOptions options_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::shared_ptr<const ModelSpec> model_;  // of which the server reads the vocabulary alone
  SamplingParams default_params_;
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable wake_;
  std::vector<std::shared_ptr<Live>> live_;
  std::shared_ptr<EngineObserver> observer_;
  EngineStats stats_;
  bool healthy_ = true;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace minimo::testing

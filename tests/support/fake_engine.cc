#include "tests/support/fake_engine.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "base/clock.h"
#include "base/error.h"
#include "minimo/engine_observer.h"
#include "spec/model_spec.h"

namespace minimo::testing {
namespace {

constexpr std::array<const char*, 16> kWords = {" the",  " sea",  " is",    " blue", " and", " a",    " wave", " comes",
                                                " back", " when", " moons", " rise", " in",  " slow", " warm", " air"};
constexpr int kLayers = 2;
constexpr int kExperts = 4;

uint64_t Hash(const std::string& text) {  // FNV-1a
  uint64_t hash = 1469598103934665603u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

}  // namespace

struct FakeEngine::Live {
  Request request;
  EventSink sink;
  std::vector<std::vector<int32_t>> outputs;  // by choice: what will be said
  std::vector<size_t> said;
  std::vector<bool> ended;
  std::vector<std::string> text;
  Timing timing;
  bool cancelled = false;
  bool fault_error = false;
  bool fault_down = false;
  bool first = true;
};

Result<std::unique_ptr<FakeEngine>> FakeEngine::Create(FakeEngineOptions options) {
  MINIMO_ASSIGN(auto tokenizer, Tokenizer::FromFolder(options.model));
  std::unique_ptr<FakeEngine> engine(new FakeEngine(std::move(options)));
  engine->tokenizer_ = std::move(tokenizer);
  auto spec = std::make_shared<ModelSpec>();
  spec->vocab = engine->tokenizer_->vocab_size();
  engine->model_ = std::move(spec);
  engine->thread_ = std::thread([self = engine.get()] { self->Loop(); });
  return engine;
}

FakeEngine::FakeEngine(FakeEngineOptions options) : options_(std::move(options)) {
  stats_.kv_capacity_tokens = 65536;
}

FakeEngine::~FakeEngine() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    for (auto& live : live_) live->cancelled = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Result<std::string> FakeEngine::Submit(Request request, EventSink sink) {
  const std::string prompt = tokenizer_->Decode(request.prompt_ids);
  auto live = std::make_shared<Live>();
  const size_t n = static_cast<size_t>(request.n);
  for (size_t i = 0; i < n; ++i) {
    std::string answer;
    if (options_.script) answer = options_.script(prompt);
    if (answer.empty()) {
      uint64_t state = Hash(prompt) + i;
      for (int k = 0; k < options_.default_length; ++k) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        answer += kWords[(state >> 33) % kWords.size()];
      }
    }
    MINIMO_ASSIGN(std::vector<int32_t> ids, tokenizer_->Encode(answer));
    live->outputs.push_back(std::move(ids));
  }
  live->said.resize(n);
  live->ended.resize(n);
  live->text.resize(n);
  live->fault_error = prompt.find(kFaultError) != std::string::npos;
  live->fault_down = prompt.find(kFaultDown) != std::string::npos;
  live->timing.arrival_us = SteadyClock().NowUs();
  live->request = std::move(request);
  live->sink = std::move(sink);
  const std::lock_guard lock(mutex_);
  if (!healthy_) return Errorf("the engine has stopped after a fault; restart the server");
  live_.push_back(live);
  wake_.notify_all();
  return live->request.id;
}

void FakeEngine::Cancel(const std::string& id) {
  const std::lock_guard lock(mutex_);
  for (auto& live : live_) {
    if (live->request.id == id) live->cancelled = true;
  }
}

bool FakeEngine::Healthy() const {
  const std::lock_guard lock(mutex_);
  return healthy_;
}

void FakeEngine::RestoreHealth() {
  const std::lock_guard lock(mutex_);
  healthy_ = true;
}

int FakeEngine::live() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(live_.size());
}

EngineStats FakeEngine::Stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.running = std::min(static_cast<int>(live_.size()), options_.max_num_seqs);
  stats.waiting = static_cast<int>(live_.size()) - stats.running;
  return stats;
}

void FakeEngine::SetObserver(std::shared_ptr<EngineObserver> observer) {
  const std::lock_guard lock(mutex_);
  observer_ = std::move(observer);
}

Engine::ExpertLoad FakeEngine::GetExpertLoad() const {
  const std::lock_guard lock(mutex_);
  ExpertLoad load{kLayers, kExperts, std::vector<int64_t>(kLayers * kExperts)};
  for (size_t i = 0; i < load.counts.size(); ++i) {
    load.counts[i] = stats_.generation_tokens * static_cast<int64_t>(i % kExperts);
  }
  return load;
}

void FakeEngine::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stop_ || !live_.empty(); });
    if (stop_ && live_.empty()) return;
    if (!stop_ && options_.step_us > 0) {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(options_.step_us));
      lock.lock();
    }
    const size_t count = std::min(live_.size(), static_cast<size_t>(options_.max_num_seqs));
    std::vector<std::shared_ptr<Live>> batch(live_.begin(), live_.begin() + static_cast<ptrdiff_t>(count));
    ++stats_.steps;
    lock.unlock();
    Step(std::move(batch));
    lock.lock();
    std::erase_if(live_, [](const auto& live) {
      return std::all_of(live->ended.begin(), live->ended.end(), [](bool ended) { return ended; });
    });
  }
}

void FakeEngine::Step(std::vector<std::shared_ptr<Live>> batch) {
  StepStats step;
  std::vector<int64_t> first_us, gap_us;
  for (auto& live : batch) {
    if (live->first) {
      live->timing.first_scheduled_us = SteadyClock().NowUs();
      step.prefill_tokens += static_cast<int32_t>(live->request.prompt_ids.size());
    }
    for (size_t choice = 0; choice < live->ended.size(); ++choice) {
      if (live->ended[choice]) continue;
      const int64_t before = live->timing.last_token_us;
      live->ended[choice] = Advance(*live, static_cast<int>(choice));
      ++step.generated_tokens;
      if (!live->first) gap_us.push_back(live->timing.last_token_us - before);
    }
    if (live->first) first_us.push_back(live->timing.first_token_us - live->timing.arrival_us);
    live->first = false;
  }
  const std::lock_guard lock(mutex_);
  stats_.prompt_tokens += step.prefill_tokens;
  stats_.generation_tokens += step.generated_tokens;
  step.time_to_first_token_us = first_us;
  step.inter_token_us = gap_us;
  if (!observer_) return;
  observer_->OnSent();
  observer_->OnStep(step);
}

bool FakeEngine::Advance(Live& live, int choice) {
  const size_t c = static_cast<size_t>(choice);
  const SamplingParams& params = live.request.params;
  Event event;
  event.choice = choice;
  bool cancelled = false;
  {
    const std::lock_guard lock(mutex_);
    cancelled = live.cancelled;
    if (live.fault_down && live.said[c] == 3) healthy_ = false;
  }
  if (cancelled) {
    event.finish = FinishReason::kCancelled;
  } else if ((live.fault_error || live.fault_down) && live.said[c] == 3) {
    event.finish = FinishReason::kError;
    event.error = "a fault was asked for";
  } else {
    const std::vector<int32_t>& output = live.outputs[c];
    const size_t at = live.said[c]++;
    const bool end = at >= output.size() && !params.ignore_eos;
    OutputToken token;
    token.token = end ? tokenizer_->eos_id().value_or(0) : output[at % output.size()];
    token.logprob = -0.25f;
    token.rank = 1;
    for (int32_t i = 0; i < params.logprobs; ++i) {
      token.top.push_back({i == 0 ? token.token : i, -0.25f - static_cast<float>(i), i + 1});
    }
    if (params.prompt_logprobs >= 0 && at == 0 && choice == 0) {
      for (const int32_t id : live.request.prompt_ids) {
        event.prompt_logprobs.push_back({id, -1.0f, {{id, -1.0f, 1}}, 1});
      }
    }
    if (!end) event.text = std::string(tokenizer_->TokenBytes(token.token));
    live.text[c] += event.text;
    if (end) event.finish = FinishReason::kStop;
    for (const std::string& stop : params.stop) {  // no held-back prefixes: a fake's stops lie inside one token
      const size_t found = live.text[c].find(stop);
      if (found == std::string::npos) continue;
      const size_t before = live.text[c].size() - event.text.size();
      event.text = found > before ? event.text.substr(0, found - before) : "";
      event.finish = FinishReason::kStop;
      event.stop_reason = stop;
    }
    if (event.finish == FinishReason::kNone && params.max_tokens >= 0 &&
        live.said[c] >= static_cast<size_t>(params.max_tokens)) {
      event.finish = FinishReason::kLength;
    }
    event.tokens.push_back(std::move(token));
  }
  const int64_t now = SteadyClock().NowUs();
  if (live.timing.first_token_us == 0) live.timing.first_token_us = now;
  live.timing.last_token_us = now;
  event.timing = live.timing;
  event.usage.prompt_tokens = static_cast<int32_t>(live.request.prompt_ids.size());
  event.usage.completion_tokens = static_cast<int32_t>(live.said[c]);
  const bool ended = event.finish != FinishReason::kNone;
  if (ended) {
    const std::lock_guard lock(mutex_);
    FinishedStats finished{.finish = event.finish, .usage = event.usage, .n = live.request.n};
    finished.e2e_us = now - live.timing.arrival_us;
    if (observer_) observer_->OnFinished(finished);
  }
  live.sink(std::move(event));
  return ended;
}

}  // namespace minimo::testing

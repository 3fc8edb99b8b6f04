#include "server/server.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "minimo/engine_observer.h"
#include "server/endpoints.h"
#include "server/engine_events.h"
#include "server/json_writer.h"
#include "server/protocol.h"
#include "server/static_assets.h"
#include "server/version.h"
#include "server/work_pool.h"

namespace minimo::server {
namespace {

constexpr auto kTick = std::chrono::milliseconds(100);
constexpr int kPoolThreads = 2;
constexpr auto kEngineGrace = std::chrono::seconds(10);

HttpResponse Json(std::string body, int status = 200) {
  HttpResponse response;
  response.status = status;
  response.body = std::move(body);
  return response;
}

}  // namespace

struct Server::State {
  // The engine's news go to the metrics; after each bunch of them the IO threads are woken.
  struct EngineWatch final : EngineObserver {
    explicit EngineWatch(State& state) : metrics(state.metrics.Observer()), http(state.http) {}
    void OnStep(const StepStats& stats) override { metrics->OnStep(stats); }
    void OnFinished(const FinishedStats& stats) override { metrics->OnFinished(stats); }
    void OnSent() override { http.Wake(); }
    const std::shared_ptr<EngineObserver> metrics;
    HttpServer& http;
  };

  State(Engine& engine, const ChatService& chat, ServerOptions given)
      : options(std::move(given)),
        engine(engine),
        metrics(options.served_model_names[0], options.cache, engine.Stats().kv_capacity_tokens,
                engine.max_model_len()),
        admission(options.max_queue > 0 ? options.max_num_seqs + options.max_queue : 0),
        context{engine, metrics, admission, chat, options.served_model_names, UnixSeconds()},
        events(engine, metrics.first_token(), metrics.inter_token(), options.served_model_names[0],
               options.max_num_seqs),
        http(options.http, MakeRouter()) {}

  Router MakeRouter();
  void TickLoop();

  ServerOptions options;
  Engine& engine;
  Metrics metrics;
  Admission admission;
  ApiContext context;
  EngineEvents events;
  std::atomic<bool> draining{false};
  HttpServer http;
  std::unique_ptr<WorkPool> pool = std::make_unique<WorkPool>(kPoolThreads);

  std::thread ticker;
  std::mutex mutex;
  std::condition_variable stop;
  bool stopping = false;  // guarded by mutex
};

Router Server::State::MakeRouter() {
  Router router(Auth(options.api_keys), options.allowed_origins);
  const auto health = [this](bool ready) {
    return [this, ready](HttpRequest&&, ReplyPtr reply) {
      const bool well = engine.Healthy();
      const bool open = well && !(ready && draining);
      JsonWriter json;
      json.Object().Member("status", !well ? "unhealthy" : !open ? "draining" : "ok").EndObject();
      reply->Send(Json(json.Take(), open ? 200 : 503));
    };
  };
  const auto prepared = [this](Endpoint endpoint) {
    return [this, endpoint](HttpRequest&& request, ReplyPtr reply) {
      auto shared = std::make_shared<HttpRequest>(std::move(request));
      pool->Run([this, endpoint, shared, reply = std::move(reply)] {
        Answer answer;
        try {
          answer = endpoint(context, std::move(*shared));
        } catch (const std::exception& e) {  // a fault of ours: one request fails, the server goes on
          LogError("a handler threw: {}", e.what());
          answer = AnswerError({.status = 500, .message = "The server failed on this request; its log says more."});
        }
        reply->Post([answer = std::move(answer), reply] { answer(reply); });
      });
    };
  };
  router.Add("GET", "/health", health(false), true);
  router.Add("GET", "/ping", health(false), true);
  router.Add("GET", "/ready", health(true), true);
  router.Add("GET", "/version", [](HttpRequest&&, ReplyPtr reply) {
    JsonWriter json;
    reply->Send(Json(json.Object().Member("version", kVersion).EndObject().Take()));
  }, true);
  router.Add("GET", "/metrics", [this](HttpRequest&&, ReplyPtr reply) {
    metrics.Update(engine.Stats());
    metrics.UpdateExpertLoad(engine.GetExpertLoad());
    metrics.UpdateHttp(http.counters());
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = metrics.Text();
    reply->Send(std::move(response));
  }, true);
  router.Add("GET", "/v1/models", prepared(PrepareModels));
  router.AddPrefix("GET", "/v1/models/", prepared(PrepareModels));
  router.Add("POST", "/v1/completions", prepared(PrepareCompletions));
  router.Add("POST", "/v1/chat/completions", prepared(PrepareChat));
  router.Add("POST", "/v1/messages", prepared(PrepareMessages));
  router.Add("POST", "/v1/messages/count_tokens", prepared(PrepareCountTokens));
  router.Add("POST", "/tokenize", prepared(PrepareTokenize));
  router.Add("POST", "/detokenize", prepared(PrepareDetokenize));
  router.Add("GET", "/v1/engine/events",
             [this](HttpRequest&& request, ReplyPtr reply) { events.Watch(std::move(request), std::move(reply)); });
  router.Add("GET", "/", HandleStatic, true);
  router.AddPrefix("GET", "/static/", HandleStatic, true);
  return router;
}

void Server::State::TickLoop() {
  pthread_setname_np(pthread_self(), "ticker");
  while (true) {
    {
      std::unique_lock lock(mutex);
      if (stop.wait_for(lock, kTick, [&] { return stopping; })) return;
    }
    events.Tick(engine.Stats(), SteadyClock().NowUs());
  }
}

int EngineThreadsBeside(int io_threads, int cores) {
  return cores >= 8 ? std::max(cores - io_threads, cores / 2) : cores;
}

Server::Server(Engine& engine, const ChatService& chat, ServerOptions options)
    : state_(std::make_unique<State>(engine, chat, std::move(options))) {}

Server::~Server() {
  State& state = *state_;
  {
    const std::lock_guard lock(state.mutex);
    state.stopping = true;
  }
  state.stop.notify_all();
  if (state.ticker.joinable()) state.ticker.join();
  state.events.EndAll();
  state.http.Drain(0);
  state.pool.reset();
  // The engine tells the end of every cancelled request within a step; only then may the IO threads go.
  const auto deadline = std::chrono::steady_clock::now() + kEngineGrace;
  while (state.admission.alive() > 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (state.admission.alive() > 0) LogError("{} requests did not end; the engine hangs", state.admission.alive());
  state.http.Stop();
  state.engine.SetObserver(nullptr);
}

Status Server::Start() {
  State& state = *state_;
  state.http.counters().on_tokens_written = [&metrics = state.metrics](std::span<const int64_t> us) {
    metrics.ObserveTokensWritten(us);
  };
  MINIMO_TRY(state.http.Start());
  state.engine.SetObserver(std::make_shared<State::EngineWatch>(state));
  state.ticker = std::thread([&state] { state.TickLoop(); });
  return {};
}

int Server::port() const { return state_->http.port(); }

LatencySummary Server::TokenWriteLatency() const { return state_->metrics.TokenWritten(); }

int Server::Drain() {
  state_->draining = true;
  state_->events.EndAll();
  return state_->http.Drain(state_->options.drain_timeout_ms);
}

}  // namespace minimo::server

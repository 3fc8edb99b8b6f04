#include "server/server.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "server/engine_events.h"
#include "server/json_writer.h"
#include "server/openai_completions.h"
#include "server/openai_tokens.h"
#include "server/protocol.h"
#include "server/static_assets.h"
#include "server/version.h"

namespace minimo::server {
namespace {

constexpr auto kTick = std::chrono::milliseconds(100);
constexpr auto kEngineGrace = std::chrono::seconds(10);

HttpResponse Json(std::string body, int status = 200) {
  HttpResponse response;
  response.status = status;
  response.body = std::move(body);
  return response;
}

}  // namespace

struct Server::State {
  State(Engine& engine, ServerOptions given)
      : options(std::move(given)),
        engine(engine),
        metrics(options.served_model_names[0], options.cache, engine.Stats().kv_capacity_tokens, engine.max_model_len()),
        admission(options.max_queue > 0 ? options.max_num_seqs + options.max_queue : 0),
        context{engine, metrics, admission, options.served_model_names, UnixSeconds()},
        events(engine, metrics.first_token(), metrics.inter_token(), options.served_model_names[0], options.max_num_seqs),
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
  const auto with_context = [this](void (*handle)(const ApiContext&, HttpRequest&&, ReplyPtr)) {
    return [this, handle](HttpRequest&& request, ReplyPtr reply) {
      try {
        handle(context, std::move(request), reply);
      } catch (const std::exception& e) {  // a fault of ours: one request fails, the server goes on
        LogError("a handler threw: {}", e.what());
        reply->Send(ErrorResponse({.status = 500, .message = "The server failed on this request; its log says more."},
                                  false));
      }
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
  router.Add("GET", "/v1/models", with_context(HandleModels));
  router.AddPrefix("GET", "/v1/models/", with_context(HandleModels));
  router.Add("POST", "/v1/completions", with_context(HandleCompletions));
  router.Add("POST", "/tokenize", with_context(HandleTokenize));
  router.Add("POST", "/detokenize", with_context(HandleDetokenize));
  router.Add("GET", "/v1/engine/events",
             [this](HttpRequest&& request, ReplyPtr reply) { events.Watch(std::move(request), std::move(reply)); });
  router.Add("GET", "/", HandleStatic, true);
  router.AddPrefix("GET", "/static/", HandleStatic, true);
  return router;
}

void Server::State::TickLoop() {
  while (true) {
    {
      std::unique_lock lock(mutex);
      if (stop.wait_for(lock, kTick, [&] { return stopping; })) return;
    }
    events.Tick(engine.Stats(), SteadyClock().NowUs());
  }
}

Server::Server(Engine& engine, ServerOptions options) : state_(std::make_unique<State>(engine, std::move(options))) {}

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
  state.http.counters().on_token_written = [&metrics = state.metrics](int64_t us) { metrics.ObserveTokenWritten(us); };
  MINIMO_TRY(state.http.Start());
  state.engine.SetObserver(state.metrics.Observer());
  state.ticker = std::thread([&state] { state.TickLoop(); });
  return {};
}

int Server::port() const { return state_->http.port(); }

int Server::Drain() {
  state_->draining = true;
  state_->events.EndAll();
  return state_->http.Drain(state_->options.drain_timeout_ms);
}

}  // namespace minimo::server

#include "server/generation.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "server/ids.h"
#include "server/json_writer.h"
#include "server/metrics.h"

namespace minimo::server {

bool Admission::Enter(int sequences) {
  int inside = inside_.load();
  do {
    if (capacity_ > 0 && inside > 0 && inside + sequences > capacity_) return false;
  } while (!inside_.compare_exchange_weak(inside, inside + sequences));
  return true;
}

Generation::Generation(const GenerationContext& context, ReplyPtr reply, Origin origin,
                       std::unique_ptr<OutputWriter> writer)
    : context_(context), reply_(std::move(reply)), origin_(std::move(origin)), writer_(std::move(writer)) {
  context_.admission.alive_.fetch_add(1);
}

// On any thread. Nothing of the server is touched after the last line.
Generation::~Generation() {
  writer_.reset();
  reply_.reset();
  context_.admission.Leave(places_);
  context_.admission.alive_.fetch_sub(1);
}

void Generation::Start(const GenerationContext& context, ReplyPtr reply, Origin origin, std::vector<Request> prompts,
                       std::unique_ptr<OutputWriter> writer) {
  std::shared_ptr<Generation> generation(
      new Generation(context, std::move(reply), std::move(origin), std::move(writer)));
  generation->Submit(std::move(prompts));
}

void Generation::Submit(std::vector<Request> prompts) {
  n_ = prompts.front().n;
  const int sequences = static_cast<int>(prompts.size()) * n_;
  if (!context_.admission.Enter(sequences)) {
    return Fail({.status = 429,
                 .code = "queue_full",
                 .message = fmt::format("The queue is full: {} sequences run or wait; try again later.",
                                        context_.admission.inside()),
                 .retry_after_s = 1});
  }
  places_ = sequences;
  unfinished_ = sequences;
  choices_.resize(static_cast<size_t>(sequences));
  reply_->OnClose([self = shared_from_this()] {
    if (self->over_) return;
    self->over_ = true;
    self->CancelAll();
    self->LogLine(499, "client_gone");
  });
  if (over_) return;  // it had left already
  for (size_t i = 0; i < prompts.size(); ++i) {
    const int base = static_cast<int>(i) * n_;
    prompts[i].id = NewId("gen-");
    engine_ids_.push_back(prompts[i].id);
    const Result<std::string> id = context_.engine.Submit(
        std::move(prompts[i]), [self = shared_from_this(), base](Event&& event) {
          self->Receive(base + event.choice, std::move(event));
        });
    if (!id.ok()) {
      engine_ids_.pop_back();
      CancelAll();
      const bool healthy = context_.engine.Healthy();
      return Fail({.status = healthy ? 400 : 503,
                   .code = healthy ? "" : "engine_down",
                   .message = id.error().message});
    }
  }
  writer_->OnAccepted();
}

void Generation::Receive(int choice, Event&& event) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = mail_.empty();
    mail_.push_back({choice, std::move(event)});
  }
  if (first) reply_->PostQuietly(shared_from_this());
}

void Generation::Deliver() {
  {
    const std::lock_guard lock(mutex_);
    delivering_.swap(mail_);
  }
  for (Mail& item : delivering_) {
    if (item.choice < 0 || item.choice >= static_cast<int>(choices_.size())) continue;
    DeliverOne(std::move(item));
  }
  delivering_.clear();
}

void Generation::DeliverOne(Mail&& mail) {
  Choice& choice = choices_[static_cast<size_t>(mail.choice)];
  if (choice.finished) return;
  choice.usage = mail.event.usage;
  if (first_timing_.first_token_us == 0) first_timing_ = mail.event.timing;
  const FinishReason finish = mail.event.finish;
  if (finish != FinishReason::kNone) {
    choice.finished = true;
    last_finish_ = finish;
    if (--unfinished_ == 0) context_.admission.Leave(std::exchange(places_, 0));
  }
  if (over_) return;
  if (finish == FinishReason::kError || finish == FinishReason::kCancelled) {
    CancelAll();
    const bool cancelled = finish == FinishReason::kCancelled;
    return Fail({.status = cancelled ? 503 : 500,
                 .code = cancelled ? "cancelled" : "engine_error",
                 .message = cancelled ? "The request was cancelled by the server." : mail.event.error});
  }
  writer_->OnEvent(mail.choice, std::move(mail.event));
  if (unfinished_ > 0 || over_) return;
  over_ = true;
  writer_->OnComplete();
  LogLine(200, ToString(last_finish_));
}

void Generation::Fail(const ApiError& error) {
  if (over_) return;
  over_ = true;
  LogLine(error.status, error.message);
  writer_->OnFailure(error);
}

void Generation::CancelAll() {
  for (const std::string& id : engine_ids_) context_.engine.Cancel(id);
}

void Generation::LogLine(int status, const std::string& outcome) {
  context_.metrics.ObserveHttp(origin_.path, status);
  Usage total;
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (i % static_cast<size_t>(n_) == 0) {
      total.prompt_tokens += choices_[i].usage.prompt_tokens;
      total.cached_prompt_tokens += choices_[i].usage.cached_prompt_tokens;
    }
    total.completion_tokens += choices_[i].usage.completion_tokens;
  }
  const auto ms = [](int64_t from, int64_t to) {
    return from == 0 || to == 0 ? -1.0 : static_cast<double>(to - from) / 1000.0;
  };
  const int64_t now = SteadyClock().NowUs();
  LogInfo(
      "request id={} path={} status={} outcome={} stream={} prompt_tokens={} cached_tokens={} completion_tokens={} "
      "choices={} queue_ms={:.2f} ttft_ms={:.2f} total_ms={:.2f} peer={} user={}",
      origin_.request_id, origin_.path, status, Quoted(outcome), origin_.stream, total.prompt_tokens,
      total.cached_prompt_tokens, total.completion_tokens, choices_.size(),
      ms(first_timing_.arrival_us, first_timing_.first_scheduled_us),
      ms(first_timing_.arrival_us, first_timing_.first_token_us), ms(origin_.received_us, now), origin_.peer,
      Quoted(origin_.user));
}

}  // namespace minimo::server

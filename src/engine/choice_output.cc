#include "engine/choice_output.h"

#include <algorithm>
#include <string>
#include <utility>

namespace minimo {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Text of the new token through the stop strings; true if one of them is complete.
bool TakeText(LiveChoice* choice, int32_t token, Event* event) {
  if (!choice->detokenizer.has_value()) return false;
  const bool check = choice->OutputTokens() >= choice->request->request.params.min_tokens;
  StopChecker::Output out = choice->stop_checker.Push(choice->detokenizer->Append(token), check);
  event->text += out.text;
  if (!out.stopped) return false;
  event->finish = FinishReason::kStop;
  event->stop_reason = std::move(out.stop_string);
  return true;
}

}  // namespace

void TakeToken(LiveChoice* choice, OutputToken token, Event* event) {
  const LiveRequest& request = *choice->request;
  const SamplingParams& params = request.request.params;
  const int32_t id = token.token;
  choice->tokens.push_back(id);
  event->tokens.push_back(std::move(token));

  const bool stop_id = Contains(params.stop_token_ids, id);
  if (stop_id || Contains(request.eos_ids, id)) {
    // The token that ends the text is no part of it, unless asked for (as vLLM).
    if (params.include_stop_str_in_output) TakeText(choice, id, event);
    if (stop_id) event->stop_reason = std::to_string(id);
    EndChoice(choice, FinishReason::kStop, event);
    return;
  }
  if (const Status accepted = choice->sampler.Append(id); !accepted.ok()) {
    event->error = accepted.error().message;
    EndChoice(choice, FinishReason::kError, event);
    return;
  }
  if (TakeText(choice, id, event)) return;
  if (choice->sampler.MatcherFinished()) {
    EndChoice(choice, FinishReason::kStop, event);
  } else if (choice->OutputTokens() >= request.max_tokens) {
    EndChoice(choice, FinishReason::kLength, event);
  }
}

void EndChoice(LiveChoice* choice, FinishReason reason, Event* event) {
  event->finish = reason;
  if (!choice->detokenizer.has_value() || choice->stop_checker.stopped()) return;
  StopChecker::Output out = choice->stop_checker.Push(choice->detokenizer->Flush());
  event->text += out.text;
  if (!out.stopped) event->text += choice->stop_checker.Flush();
}

}  // namespace minimo

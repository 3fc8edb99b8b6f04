#include "server/openai_completion_writer.h"

#include <algorithm>

#include "base/error.h"
#include "minimo/tokenizer.h"
#include "server/json_writer.h"

namespace minimo::server {
namespace {

int64_t CountCharacters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

void AppendItem(std::string& list, std::string_view item) {
  if (!list.empty()) list += ',';
  list += item;
}

}  // namespace

void CompletionWriter::Logprobs::Clear() {
  tokens.clear();
  token_logprobs.clear();
  top_logprobs.clear();
  text_offset.clear();
}

CompletionWriter::CompletionWriter(const ApiContext& context, ReplyPtr reply, Fields fields,
                                   std::vector<std::vector<int32_t>> prompts, bool discard_output)
    : context_(context),
      fields_(std::move(fields)),
      prompts_(std::move(prompts)),
      discard_output_(discard_output),
      choices_(prompts_.size() * static_cast<size_t>(fields_.n)),
      prompt_logprobs_(prompts_.size()),
      answer_(context, std::move(reply), fields_, "cmpl-", "text_completion", choices_.size()) {}

// `known`: the token has a logprob (the first token of a prompt has none).
void CompletionWriter::AddLogprob(Choice& choice, const OutputToken& token, bool known) {
  const std::string text = TokenText(context_.engine, token.token);
  AppendItem(choice.logprobs.tokens, Quoted(text));
  AppendItem(choice.logprobs.text_offset, fmt::format("{}", choice.offset));
  choice.offset += CountCharacters(text);
  if (!known) {
    AppendItem(choice.logprobs.token_logprobs, "null");
    AppendItem(choice.logprobs.top_logprobs, "null");
    return;
  }
  const auto clamped = [](float logprob) { return std::max(logprob, -9999.0f); };
  JsonWriter value;
  value.Float(clamped(token.logprob));
  AppendItem(choice.logprobs.token_logprobs, value.str());
  JsonWriter top;
  top.Object();
  bool chosen_seen = false;
  const size_t count = std::min(token.top.size(), static_cast<size_t>(fields_.completion_logprobs));
  for (size_t i = 0; i < count; ++i) {
    chosen_seen |= token.top[i].token == token.token;
    top.Key(TokenText(context_.engine, token.top[i].token)).Float(clamped(token.top[i].logprob));
  }
  if (!chosen_seen) top.Key(text).Float(clamped(token.logprob));
  AppendItem(choice.logprobs.top_logprobs, top.EndObject().str());
}

void CompletionWriter::Absorb(int index, Event& event) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  const size_t prompt = static_cast<size_t>(index / fields_.n);
  if (!event.prompt_logprobs.empty()) prompt_logprobs_[prompt] = std::move(event.prompt_logprobs);
  const bool wants_logprobs = fields_.completion_logprobs >= 0;
  if (!choice.begun) {
    choice.begun = true;
    if (fields_.echo) {
      choice.text = context_.engine.tokenizer().Decode(prompts_[prompt], fields_.params.skip_special_tokens);
      if (wants_logprobs) {
        // One entry a prompt token; the first has no logprob, whether the engine lists it or not.
        const auto& known = prompt_logprobs_[prompt];
        const size_t absent = prompts_[prompt].size() - std::min(known.size(), prompts_[prompt].size());
        for (size_t i = 0; i < prompts_[prompt].size(); ++i) {
          const bool has = i > 0 && i >= absent;
          AddLogprob(choice, has ? known[i - absent] : OutputToken{prompts_[prompt][i], 0, {}}, has);
        }
      }
    }
  }
  if (!discard_output_) {
    choice.text += event.text;
    for (const OutputToken& token : event.tokens) {
      if (wants_logprobs) AddLogprob(choice, token, true);
      if (fields_.return_token_ids) choice.ids.push_back(token.token);
    }
  } else {
    event.usage.completion_tokens = 0;
    if (event.finish == FinishReason::kStop) event.finish = FinishReason::kLength;
    event.stop_reason.clear();
  }
  choice.finish = event.finish;
  choice.stop_reason = std::move(event.stop_reason);
  answer_.usage().Set(index, event.usage);
}

void CompletionWriter::WriteChoice(JsonWriter& json, int index, Choice& choice, bool last) {
  json.Object().Member("index", index).Member("text", choice.text).Key("logprobs");
  if (fields_.completion_logprobs < 0) {
    json.Null();
  } else {
    const Logprobs& l = choice.logprobs;
    json.Raw(fmt::format(R"({{"tokens":[{}],"token_logprobs":[{}],"top_logprobs":[{}],"text_offset":[{}]}})", l.tokens,
                         l.token_logprobs, l.top_logprobs, l.text_offset));
  }
  WriteFinish(json, last ? choice.finish : FinishReason::kNone);
  WriteStopReason(json, last ? choice.stop_reason : "");
  const size_t prompt = static_cast<size_t>(index / fields_.n);
  if (fields_.return_token_ids) {
    json.Key("token_ids").Array();
    for (const int32_t id : choice.ids) json.Int(id);
    json.EndArray().Key("prompt_token_ids").Array();
    for (const int32_t id : prompts_[prompt]) json.Int(id);
    json.EndArray();
  }
  if (fields_.prompt_logprobs_given && !fields_.stream) {
    json.Key("prompt_logprobs");
    WritePromptLogprobs(json, context_.engine, prompts_[prompt], prompt_logprobs_[prompt]);
  }
  json.EndObject();
  choice.text.clear();
  choice.ids.clear();
  choice.logprobs.Clear();
}

void CompletionWriter::OnEvent(int index, Event&& event) {
  Absorb(index, event);
  if (!fields_.stream) return;
  Choice& choice = choices_[static_cast<size_t>(index)];
  const bool last = event.finish != FinishReason::kNone;
  // A token whose text is held back (part of a character, or of a stop string) is a chunk too, as in vLLM: clients time
  // tokens by chunks.
  if (!last && event.tokens.empty() && choice.text.empty()) return;
  WriteChoice(answer_.Open(), index, choice, last);
  answer_.Send(index, event.tokens.empty() ? 0 : event.timing.last_token_us);
}

void CompletionWriter::OnComplete() {
  if (fields_.stream) return answer_.EndStream(-1);
  JsonWriter& json = answer_.Open();
  for (size_t i = 0; i < choices_.size(); ++i) WriteChoice(json, static_cast<int>(i), choices_[i], true);
  answer_.CloseChoices(-1);
  answer_.SendWhole();
}

}  // namespace minimo::server

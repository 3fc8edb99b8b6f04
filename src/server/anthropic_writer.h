// How answers to /v1/messages are written: whole or as Anthropic's sequence of events.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "minimo/output_parser.h"
#include "server/fields.h"
#include "server/generation.h"
#include "server/protocol.h"

namespace minimo::server {

class AnthropicWriter final : public OutputWriter {
 public:
  // `show_thinking`: reasoning becomes thinking blocks; else it is left out.
  AnthropicWriter(const ApiContext& context, ReplyPtr reply, Fields fields, int prompt_tokens,
                  std::unique_ptr<OutputParser> parser, bool show_thinking);

  void OnAccepted() override;
  void OnEvent(int choice, Event&& event) override;
  void OnComplete() override;
  void OnFailure(const ApiError& error) override;

 private:
  enum class Block { kNone, kThinking, kText, kTool };

  void Take(const ParsedDelta& delta, int64_t sampled_us);
  void Open(Block block, const ParsedDelta& delta);
  void Close();
  void Send(std::string_view event, std::string_view data, int64_t sampled_us);
  void WriteUsage(JsonWriter& json) const;
  void WriteStop(JsonWriter& json) const;  // stop_reason, stop_sequence

  const ApiContext& context_;
  ReplyPtr reply_;
  Fields fields_;
  const int prompt_tokens_;
  std::unique_ptr<OutputParser> parser_;
  const bool show_thinking_;
  const std::string id_;
  bool accepted_ = false;
  Block block_ = Block::kNone;  // the open one
  int index_ = 0;               // of the open or the next block
  std::string content_;         // whole answers: the content array's items, without brackets
  std::string piece_;           // of the open block
  Usage usage_;
  FinishReason finish_ = FinishReason::kNone;
  std::string stop_reason_;
};

}  // namespace minimo::server

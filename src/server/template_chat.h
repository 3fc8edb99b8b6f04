// The chat service of a checkpoint: its own template, the output parser of its model type, and token masks for formats
// and tool choices.
#pragma once

#include <memory>
#include <string>

#include "minimo/engine.h"
#include "server/chat_service.h"

namespace minimo::server {

class TemplateChat final : public ChatService {
 public:
  // `folder`: the checkpoint's. The engine outlives this.
  static Result<std::unique_ptr<TemplateChat>> Load(const std::string& folder, const Engine& engine);
  ~TemplateChat() override;

  Result<PreparedChat> Prepare(const ChatInput& input, const Options& options) const override;
  Result<std::shared_ptr<const TokenMatcher>> FormatMatcher(const OutputFormat& format) const override;

 private:
  struct Impl;
  explicit TemplateChat(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace minimo::server

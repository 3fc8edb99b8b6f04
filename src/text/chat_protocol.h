// How each model writes reasoning and tool calls: one table, a line a model. A third model is one more entry.
#pragma once

#include <string_view>

namespace minimo {

// <section> <call NAME> <param NAME>VALUE</param> ... </call> ... </section>
struct ChatProtocol {
  std::string_view model_type;  // of config.json
  std::string_view section_open, section_close;
  std::string_view call_open, call_close;    // call_open is followed by the name and '>'
  std::string_view param_open, param_close;  // likewise
  // Values and reasoning stand on lines of their own: the newlines next to the tags are not part of them.
  bool tags_on_lines = false;
  bool quoted_names = false;     // <call "NAME">
  bool shared_section = false;   // one section holds all calls; else each call has its own
  bool has_tools() const { return !section_open.empty(); }
};

inline constexpr std::string_view kThinkOpen = "<think>";
inline constexpr std::string_view kThinkClose = "</think>";

// For an unknown type: a protocol without tool calls.
const ChatProtocol& FindChatProtocol(std::string_view model_type);

}  // namespace minimo

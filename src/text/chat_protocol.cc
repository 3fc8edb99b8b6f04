#include "text/chat_protocol.h"

#include <array>

namespace minimo {
namespace {

constexpr std::array kProtocols = {
    ChatProtocol{"minimax_m2", "<minimax:tool_call>", "</minimax:tool_call>", "<invoke name=", "</invoke>",
                 "<parameter name=", "</parameter>", true, true, true},
    ChatProtocol{"mimo_v2_flash", "<tool_call>", "</tool_call>", "<function=", "</function>",
                 "<parameter=", "</parameter>", false, false, false},
};
constexpr ChatProtocol kThinkingAlone{};

}  // namespace

const ChatProtocol& FindChatProtocol(std::string_view model_type) {
  for (const ChatProtocol& protocol : kProtocols) {
    if (protocol.model_type == model_type) return protocol;
  }
  return kThinkingAlone;
}

}  // namespace minimo

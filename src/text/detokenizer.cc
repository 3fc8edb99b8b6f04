#include "text/detokenizer.h"

#include <utility>

#include "text/utf8.h"

namespace minimo {

std::string Detokenizer::Append(int32_t token) {
  if (skip_special_tokens_ && tokenizer_->IsSpecial(token)) return {};
  const std::string_view bytes = tokenizer_->TokenBytes(token);
  if (bytes.empty()) return {};
  std::string joined = std::move(open_);
  joined.append(bytes);
  // The open character, if any, begins within the last 3 bytes.
  size_t whole = joined.size() > 3 ? joined.size() - 3 : 0;
  while (whole < joined.size()) {
    const std::string_view tail = std::string_view(joined).substr(whole);
    const bool continuation = (static_cast<uint8_t>(tail[0]) & 0xC0) == 0x80;
    const Utf8Step step = continuation ? Utf8Step{} : NextUtf8(tail);
    if (step.kind == Utf8Step::kPartial) break;
    whole += step.size;
  }
  open_ = joined.substr(whole);
  joined.resize(whole);
  return ToValidUtf8(joined);
}

std::string Detokenizer::Flush() { return ToValidUtf8(std::exchange(open_, {})); }

}  // namespace minimo

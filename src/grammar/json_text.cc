#include "grammar/json_text.h"

#include "base/error.h"

namespace minimo::grammar {
namespace {

constexpr size_t kMaxBytes = 1 << 20;
constexpr int kMaxDepth = 128;

bool TooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

}  // namespace

Result<Json> ParseBoundedJson(std::string_view text) {
  if (text.size() > kMaxBytes) return Errorf("{} bytes; at most {} are taken", text.size(), kMaxBytes);
  if (TooDeep(text)) return Errorf("nested more than {} deep", kMaxDepth);
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return Error{"not valid JSON"};
  return value;
}

}  // namespace minimo::grammar

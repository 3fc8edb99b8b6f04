#include "grammar/json_text.h"

#include "base/error.h"
#include "base/json_depth.h"

namespace minimo::grammar {
namespace {

constexpr size_t kMaxBytes = 1 << 20;
constexpr int kMaxDepth = 128;

}  // namespace

Result<Json> ParseBoundedJson(std::string_view text) {
  if (text.size() > kMaxBytes) return Errorf("{} bytes; at most {} are taken", text.size(), kMaxBytes);
  if (JsonDepth(text) > kMaxDepth) return Errorf("nested more than {} deep", kMaxDepth);
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return Error{"not valid JSON"};
  return value;
}

}  // namespace minimo::grammar

// Unicode normal forms as the Hugging Face library computes them (Unicode 9; see unicode_pins.h). Immutable.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "minimo/result.h"

namespace minimo {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// Linear in the length of the text but for n log n in the length of a run of combining marks. Returns `text` itself
// where nothing changes, else a view of `storage`. Requires valid UTF-8.
std::string_view Normalize(NormalForm form, std::string_view text, std::string* storage);

// A tokenizer.json's "normalizer".
class Normalizer {
 public:
  static Result<Normalizer> Parse(const nlohmann::json& json);
  // As Normalize above, all forms in turn.
  std::string_view Apply(std::string_view text, std::string* storage) const;

 private:
  std::vector<NormalForm> forms_;
};

}  // namespace minimo

// Cuts text into the words that byte-pair encoding works on: a tokenizer.json's "pre_tokenizer". Immutable.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

#include "minimo/result.h"
#include "text/regex.h"

namespace minimo {

// What becomes of the matches (or, inverted, of the gaps between them).
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

class PreTokenizer {
 public:
  // Split, Digits, ByteLevel and Sequences of them. A ByteLevel must come last: words are raw bytes here, and it is
  // what says so.
  static Result<PreTokenizer> Parse(const nlohmann::json& json);

  using OnWord = std::function<void(std::string_view)>;
  // Calls `on_word` with each word in order, none empty; the view is valid during the call. Requires valid UTF-8.
  Status Split(std::string_view text, const OnWord& on_word) const;

 private:
  struct Step {
    std::shared_ptr<const Regex> regex;  // null: no cut by a regex
    bool digits = false;                 // cut at numeric characters
    bool add_prefix_space = false;
    bool byte_level = false;
    bool invert = false;
    SplitBehavior behavior = SplitBehavior::kIsolated;
  };
  static Status ParseInto(const nlohmann::json& json, std::vector<Step>* steps);
  static Result<Step> ParseSplit(const nlohmann::json& json);
  static Result<Step> ParseByteLevel(const nlohmann::json& json);
  Status Run(size_t step, std::string_view text, const OnWord& on_word) const;

  std::vector<Step> steps_;
};

}  // namespace minimo

// A chat template in the Jinja language: renders what Jinja2 3.1 renders in Hugging Face's environment (immutable
// sandbox, trim_blocks, lstrip_blocks, break and continue, tojson without HTML escapes, raise_exception,
// strftime_now). A template may come from anywhere: what it asks for too much of ends in an error.
#pragma once

#include <chrono>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "minimo/result.h"
#include "text/jinja/value.h"

namespace minimo::jinja {

struct Tree;

// Immutable; threads may render at the same time.
class JinjaTemplate {
 public:
  // An error begins with "line N: ".
  static Result<JinjaTemplate> Parse(std::string_view source);

  // `context` is a dict: the variables. An error's message is what the exception's would be.
  Result<std::string> Render(const Value& context) const;
  Result<std::string> Render(const Value& context, std::chrono::system_clock::time_point now) const;

  // Whether a `for` runs over a variable with `name` in its name, or over an attribute or item of that name.
  bool LoopsOver(std::string_view name) const;
  // Whether .split(separator) is called with that text.
  bool SplitsOn(std::string_view separator) const;
  // Whether the text is within a literal or the plain text.
  bool Mentions(std::string_view text) const;

 private:
  explicit JinjaTemplate(std::shared_ptr<const Tree> tree) : tree_(std::move(tree)) {}
  std::shared_ptr<const Tree> tree_;
};

// Fails on nesting beyond kMaxNesting. An integer beyond int64 becomes a float.
Result<Value> FromJson(const nlohmann::ordered_json& json);

}  // namespace minimo::jinja
